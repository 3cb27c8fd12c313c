"""The lease: of several that would work in one folder, one works.

A lease is a file named by a number that only one process can create: ``000000000007.json``. The highest number holds
the lease until it expires or is given back; its owner writes a later expiry into it from time to time. Whoever comes
next creates the next number; at once, where the owner is a process of the same machine that has ended. The number is a
fencing token (as in M. Kleppmann, "How to do distributed locking"): an owner that was asleep while its lease was taken
over finds a higher one, and what it wrote carries a lower number.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from types import TracebackType

import msgspec

from polar_ray.data.exclusive import create
from polar_ray.data.liveness import Process
from polar_ray.data.numbered import highest, numbered, numbers
from polar_ray.data.storage import Storage
from polar_ray.data.versioned import decode
from polar_ray.errors import LeaseLost, NotShareable, PolarRayError

REMEMBERED = 20
"""Old leases that stay, to be looked at."""
SCHEMA = 1
_given_up: set[str] = set()
"""Owners in this process that have ended and could not say so, since their storage was away."""


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a lease's file says.

    Attributes:
        owner: Host, process and a random word.
        since: When it was taken, ISO 8601.
        expires: Seconds since 1970.
        released: Whether its owner gave it back.
        process: Its owner; what earlier versions wrote does not tell.
    """

    schema: int = SCHEMA
    owner: str
    since: str
    expires: float
    released: bool = False
    process: Process = Process()

    def is_over(self, now: float) -> bool:
        """Whether the next one may work: it was given back, it expired, or its owner is known to have ended."""
        return self.released or now >= self.expires or self.owner in _given_up or self.process.is_dead()


class Busy(Exception):
    """Another owner holds the lease.

    Attributes:
        record: Its lease.
    """

    def __init__(self, record: LeaseRecord) -> None:
        super().__init__(f"{record.owner} has worked since {record.since}")
        self.record = record


@dataclass(frozen=True)
class Purpose:
    """What is done under a lease, and how much depends on it.

    Attributes:
        name: As a person calls it: ``tick``.
        loss: What was not done when the lease was lost.
        setting: What makes the lease longer; empty where nothing does.
        strict: Two must not work even for a moment. An expiry is then final though nobody took over, and a storage
            where two can create the same file is refused. Otherwise what two write is the same, and it is enough that
            one of them soon finds the other; and in the end nothing of the lease is left.
    """

    name: str
    loss: str
    setting: str = ""
    strict: bool = True


@dataclass(frozen=True)
class Fence:
    """What an owner's helpers, in other processes, hold up against those of an owner that is gone.

    Attributes:
        leases: The folder of the leases.
        token: The owner's number.
        owner: As its record names it: on a storage that let two create it, the number alone does not tell.
        work: What it does.
    """

    leases: Storage
    token: int
    owner: str
    work: Purpose

    def check(self) -> None:
        """Makes sure that what a helper is about to write is still wanted.

        Raises:
            LeaseLost: The owner's lease was given back or taken over.
        """
        if not _is_held(self.leases, self.token, self.owner):
            raise LeaseLost(
                f"another {self.work.name} has taken over in {self.leases.url}, or this one has ended; {self.work.loss}"
            )


class Lease:
    """A lease that this process holds; a context manager that keeps it alive and gives it back.

    Attributes:
        token: Its number.
    """

    def __init__(
        self, storage: Storage, token: int, record: LeaseRecord, ttl_s: float, work: Purpose, clock: Callable[[], float]
    ) -> None:
        self.token = token
        self._storage = storage
        # Whoever waits for a storage for longer renews too late.
        self._briefly = replace(storage, wait_s=min(storage.wait_s, ttl_s / 3))
        self._record = record
        self._ttl_s = ttl_s
        self._work = work
        self._clock = clock
        self._taken_over = False
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._keep_alive, name="polar-ray-lease", daemon=True)

    @staticmethod
    def take(
        storage: Storage, ttl_s: float, work: Purpose, *, above: int = 0, clock: Callable[[], float] = time.time
    ) -> "Lease":
        """Takes the lease.

        Args:
            storage: The folder of the leases.
            ttl_s: Seconds until it expires unless it is renewed.
            work: What is done under it.
            above: The new number is higher than this, though the leases before it are gone.
            clock: Seconds since 1970.

        Raises:
            Busy: Another owner holds it.
            NotShareable: The storage cannot keep two apart, and the work is strict.
        """
        storage.sweep(older_than_s=ttl_s)
        token, mine = 0, None
        # Whoever is outrun looks again: the other one works now, or has already ended.
        while mine is None:
            last, record = _newest(storage)
            if record is not None and not record.is_over(clock()):
                raise Busy(record)
            token = max(last, above) + 1
            mine = _claimed(storage, token, ttl_s, work, clock())
        for old in numbers(storage):
            if old <= token - REMEMBERED:
                storage.delete(numbered(storage, old))
        return Lease(storage, token, mine, ttl_s, work, clock)

    @property
    def fence(self) -> Fence:
        """What goes with the owner's helpers."""
        return Fence(self._storage, self.token, self._record.owner, self._work)

    @property
    def taken_over(self) -> bool:
        """Whether another owner was found when the lease was last renewed. Costs nothing."""
        return self._taken_over

    def check(self) -> None:
        """Makes sure that the lease is still held.

        Raises:
            LeaseLost: It has expired, or another owner took it over.
        """
        if self._has_expired() or not self._is_mine(self._storage):
            longer = f", or set {self._work.setting} higher" if self._work.setting else ""
            raise LeaseLost(
                f"this {self._work.name} could not renew its lease in {self._storage.url} for {self._ttl_s:g} s, so "
                f"another one may have taken over; {self._work.loss}. What was done is kept; run the same command "
                f"again. If this comes again, look at the storage{longer}"
            )

    def renew(self) -> None:
        """Moves the expiry, unless another owner took over."""
        with self._writing:
            if self._ended.is_set():
                return
            if not self._is_mine(self._briefly):
                self._taken_over = True
                return
            renewed = msgspec.structs.replace(self._record, expires=self._clock() + self._ttl_s)
            self._briefly.write_atomic(numbered(self._storage, self.token), msgspec.json.encode(renewed))
            self._record = renewed

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        _given_up.add(self._record.owner)
        # Should the storage be away, the lease expires by itself.
        with self._writing, contextlib.suppress(OSError, PolarRayError):
            storage = self._briefly
            if not self._is_mine(storage):
                return
            if self._work.strict:
                released = msgspec.structs.replace(self._record, released=True)
                storage.write_atomic(numbered(storage, self.token), msgspec.json.encode(released))
                return
            for number in numbers(storage):
                if number <= self.token:
                    storage.delete(numbered(storage, number))

    def _has_expired(self) -> bool:
        return self._work.strict and self._clock() >= self._record.expires

    def _is_mine(self, storage: Storage) -> bool:
        return _is_held(storage, self.token, self._record.owner)

    def _keep_alive(self) -> None:
        while not self._ended.wait(self._ttl_s / 3):
            try:
                if not self._has_expired():
                    self.renew()
            except (OSError, PolarRayError):
                # The storage is away for a while. Either it comes back in time, or ``check`` says what happened.
                continue


def _newest(storage: Storage) -> tuple[int, LeaseRecord | None]:
    """Returns the highest number, and its record unless its owner has just deleted it."""
    last = highest(storage)
    try:
        return last, _read(storage, last) if last else None
    except FileNotFoundError:
        return last, None


def _is_held(storage: Storage, token: int, owner: str) -> bool:
    """Whether the highest lease is an owner's. On a storage that let two create it, the one who wrote last has it."""
    last, record = _newest(storage)
    return last == token and record is not None and record.owner == owner


def _claimed(storage: Storage, token: int, ttl_s: float, work: Purpose, now: float) -> LeaseRecord | None:
    """Creates the lease of a number; returns its record, or None where another owner was quicker."""
    since = datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds")
    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    mine = LeaseRecord(owner=owner, since=since, expires=now + ttl_s, process=Process.this())
    if not _claim(storage, token, mine, work):
        return None
    if highest(storage) > token:
        # This process slept between looking and creating, so long that the number had come and gone.
        storage.delete(numbered(storage, token))
        return None
    return mine


def _claim(storage: Storage, token: int, record: LeaseRecord, work: Purpose) -> bool:
    """Creates the file of a lease; returns whether nobody else has."""
    path, data = numbered(storage, token), msgspec.json.encode(record)
    try:
        if not create(storage, path, data):
            # Or this process has, and the answer was lost on its way, so that the client asked again.
            return _is_held(storage, token, record.owner)
        # Whoever creates a file twice and succeeds is on a storage that lets others do so too. The space tells this
        # call's file from the first one's, should an answer be lost.
        if not create(storage, path, data + b" "):
            return True
        if work.strict:
            storage.delete(path)
            raise NotShareable(
                f"{storage.url} cannot be shared by several processes: it created the same file twice, so it ignores "
                "If-None-Match; give an output.path on a store that does not, or on a local disk"
            )
    except NotShareable:
        if work.strict:
            raise
        storage.write_atomic(path, data)
    return _is_held(storage, token, record.owner)


def _read(storage: Storage, token: int) -> LeaseRecord:
    return decode(
        storage,
        numbered(storage, token),
        LeaseRecord,
        SCHEMA,
        "nobody knows who works there; if you are sure that nobody does, delete it",
    )
