"""The lease: of several that would work in one folder, one works.

A lease is a file named by a number that only one process can create: ``000000000007.json``. The highest number holds
the lease until it expires or is given back; its owner writes a later expiry into it from time to time. Whoever comes
next creates the next number; at once, where the owner is a process of the same machine that has ended. The number is a
fencing token (as in M. Kleppmann, "How to do distributed locking"): an owner that was asleep while its lease was taken
over finds a higher one, and what it wrote carries a lower number.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType

import msgspec

from polar_ray.data.claim import Purpose, claimed
from polar_ray.data.lease_record import LeaseRecord, given_up, owner, read
from polar_ray.data.numbered import numbered, numbers
from polar_ray.data.storage import Storage
from polar_ray.errors import LeaseLost, PolarRayError

LATELY = 6
"""The part of a lease's life for which it counts as held since it was last looked at."""
REMEMBERED = 20
"""Old leases that stay, to be looked at."""


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
        self._checked = -math.inf
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
        mine = None
        # Whoever is outrun looks again: the other one works now, or has already ended.
        while mine is None:
            token, mine = claimed(storage, ttl_s, work, above, clock)
        for old in numbers(storage) if work.strict else ():
            if old <= token - REMEMBERED and _is_left(storage, old, token):
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
        name, url = self._work.name, self._storage.url
        if self._has_expired():
            longer = f", or set {self._work.setting} higher" if self._work.setting else ""
            raise LeaseLost(
                f"this {name} could not renew its lease in {url} for {self._ttl_s:g} s, so another one may have taken "
                f"over; {self._work.loss}. What was done is kept; run the same command again. If this comes again, "
                f"look at the storage{longer}"
            )
        found = owner(self._storage)
        if found is None:
            raise LeaseLost(
                f"somebody deleted the lease of this {name} in {url}, so another one may have taken over; "
                f"{self._work.loss}. Run the same command again"
            )
        number, record = found
        if (number, record.owner) == (self.token, self._record.owner):
            return
        silent = self._clock() - (self._record.expires - self._ttl_s)
        why = (
            f"this one did not renew its lease for {silent:.0f} s"
            if silent >= self._ttl_s
            else "though this one renewed its lease in time: look whether the storage keeps two from creating one file"
        )
        raise LeaseLost(
            f"another {name} ({record.who}) has taken over in {url} since {record.since}, {why}; {self._work.loss}. "
            "When that one has ended, run the same command again"
        )

    def check_lately(self) -> None:
        """Makes sure that the lease is still held, or was a moment ago: for what is done often.

        Nobody takes over from an owner that has its lease for half of its life yet.

        Raises:
            LeaseLost: As ``check``.
        """
        # By a clock that goes on while the machine, or this process, is asleep.
        now = self._clock()
        if not (0 <= now - self._checked < self._ttl_s / LATELY and now < self._record.expires - self._ttl_s / 2):
            self.check()
            self._checked = now

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
        given_up.add(self._record.owner)
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
                if number == self.token or _is_left(storage, number, self.token):
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


def _is_held(storage: Storage, token: int, name: str) -> bool:
    """Whether the lease is an owner's. On a storage that let two create it, the one who wrote last has it."""
    found = owner(storage)
    return found is not None and (found[0], found[1].owner) == (token, name)


def _is_left(storage: Storage, number: int, token: int) -> bool:
    """Whether nobody will come back for a lease that is not the one of ``token``; somebody may, for a claim."""
    record = read(storage, number)
    if record is None:
        return False
    return record.process.is_dead() if record.claim else number < token
