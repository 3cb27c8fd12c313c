"""The lease: of several ticks that start, one works.

A lease is a file named by a number that only one process can create: ``000000000007.json``. The highest number holds
the lease until it expires or is given back; its owner writes a later expiry into it from time to time. Whoever comes
next creates the next number. The number is a fencing token (as in M. Kleppmann, "How to do distributed locking"): an
owner that was asleep while its lease was taken over finds a higher one, and what it wrote carries a lower number.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from types import TracebackType

import msgspec

from polar_ray.curating.records import decode
from polar_ray.data.exclusive import create
from polar_ray.data.storage import Storage
from polar_ray.errors import LeaseLost

REMEMBERED = 20
"""Old leases that stay, to be looked at."""
SCHEMA = 1


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a lease's file says.

    Attributes:
        owner: Host, process and a random word.
        since: When it was taken, ISO 8601.
        expires: Seconds since 1970.
        released: Whether its owner gave it back.
    """

    schema: int = SCHEMA
    owner: str
    since: str
    expires: float
    released: bool = False


class Busy(Exception):
    """Another owner holds the lease.

    Attributes:
        record: Its lease.
    """

    def __init__(self, record: LeaseRecord) -> None:
        super().__init__(f"{record.owner} has worked since {record.since}")
        self.record = record


class Lease:
    """A lease that this process holds; a context manager that keeps it alive and gives it back.

    Attributes:
        token: Its number.
    """

    def __init__(
        self, storage: Storage, token: int, record: LeaseRecord, ttl_s: float, clock: Callable[[], float]
    ) -> None:
        self.token = token
        self._storage = storage
        self._record = record
        self._ttl_s = ttl_s
        self._clock = clock
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._keep_alive, name="polar-ray-lease", daemon=True)

    @staticmethod
    def take(storage: Storage, ttl_s: float, *, clock: Callable[[], float] = time.time) -> "Lease":
        """Takes the lease.

        Args:
            storage: The folder of the leases.
            ttl_s: Seconds until it expires unless it is renewed.
            clock: Seconds since 1970.

        Raises:
            Busy: Another owner holds it.
        """
        storage.sweep(older_than_s=ttl_s)
        highest = _highest(storage)
        if highest:
            record = _read(storage, highest)
            if not record.released and clock() < record.expires:
                raise Busy(record)
        token = highest + 1
        now = clock()
        since = datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds")
        owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        mine = LeaseRecord(owner=owner, since=since, expires=now + ttl_s)
        if not create(storage, _path(storage, token), msgspec.json.encode(mine)):
            raise Busy(_read(storage, token))
        if (higher := _highest(storage)) > token:
            # This process slept between looking and creating, so long that the number had come and gone.
            storage.delete(_path(storage, token))
            raise Busy(_read(storage, higher))
        for old in _tokens(storage):
            if old <= token - REMEMBERED:
                storage.delete(_path(storage, old))
        return Lease(storage, token, mine, ttl_s, clock)

    def check(self) -> None:
        """Makes sure that the lease is still held.

        Raises:
            LeaseLost: It has expired, or another owner took it over.
        """
        if self._clock() >= self._record.expires or _highest(self._storage) > self.token:
            raise LeaseLost(
                f"this tick could not renew its lease in {self._storage.url} for {self._ttl_s:g} s, so another one may "
                "have taken over; nothing was published. What was scored is kept; run the same command again. If this "
                "comes again, look at the storage, or set lease_s higher"
            )

    def renew(self) -> None:
        """Moves the expiry."""
        with self._writing:
            if self._ended.is_set():
                return
            renewed = msgspec.structs.replace(self._record, expires=self._clock() + self._ttl_s)
            self._storage.write_atomic(_path(self._storage, self.token), msgspec.json.encode(renewed))
            self._record = renewed

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        released = msgspec.structs.replace(self._record, released=True)
        # Should the storage be away, the lease expires by itself.
        with self._writing, contextlib.suppress(OSError):
            self._storage.write_atomic(_path(self._storage, self.token), msgspec.json.encode(released))

    def _keep_alive(self) -> None:
        while not self._ended.wait(self._ttl_s / 3):
            try:
                if self._clock() < self._record.expires:
                    self.renew()
            except OSError:  # StorageFault is one
                # The storage is away for a while. Either it comes back in time, or ``check`` says what happened.
                continue


def _tokens(storage: Storage) -> list[int]:
    names = [info.path.rsplit("/", 1)[-1].removesuffix(".json") for info in storage.list()]
    return sorted(int(name) for name in names if name.isdigit())


def _highest(storage: Storage) -> int:
    return max(_tokens(storage), default=0)


def _path(storage: Storage, token: int) -> str:
    return storage.join(f"{token:012d}.json")


def _read(storage: Storage, token: int) -> LeaseRecord:
    return decode(storage, _path(storage, token), LeaseRecord, SCHEMA)
