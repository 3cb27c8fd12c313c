"""The record of a lease: who works, since when, and whether that one still does."""

import uuid
from collections.abc import Callable

import msgspec

from polar_ray.data.liveness import Process
from polar_ray.data.numbered import numbered, numbers
from polar_ray.data.replacing import TEMPORARY_PREFIX
from polar_ray.data.storage import Storage
from polar_ray.data.versioned import decode

SCHEMA = 1
DAY_S = 86_400
"""No clock is taken to be wrong by more than this."""
given_up: set[str] = set()
"""Owners in this process that have ended and could not say so, since their storage was away."""


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a lease's file says.

    Attributes:
        owner: Host, process and a random word.
        since: When it was taken, ISO 8601.
        expires: Seconds since 1970, by its owner's clock.
        released: Whether its owner gave it back.
        process: Its owner; what earlier versions wrote does not tell.
        claim: Whether it is not known yet that nobody else has the lease: it keeps others from beginning, and is no
            owner's.
        ttl_s: Seconds until it expires unless it is renewed; 0 in what earlier versions wrote.
    """

    schema: int = SCHEMA
    owner: str
    since: str
    expires: float
    released: bool = False
    process: Process = Process()
    claim: bool = False
    ttl_s: float = 0.0

    @property
    def who(self) -> str:
        """The owner, for a person."""
        host, _, rest = self.owner.partition(":")
        process, _, word = rest.rpartition(":")
        return f"process {process} on {host}" if process and word else self.owner


def read(storage: Storage, number: int) -> LeaseRecord | None:
    """Returns the record of a number, or None where its owner has just deleted it.

    Raises:
        StateError: It is damaged.
    """
    try:
        return decode(
            storage,
            numbered(storage, number),
            LeaseRecord,
            SCHEMA,
            "nobody knows who works there; if you are sure that nobody does, delete it",
        )
    except FileNotFoundError:
        return None


def owner(storage: Storage) -> tuple[int, LeaseRecord] | None:
    """Returns the highest number that is no mere claim, and its record: the owner of the lease, if that one lives."""
    for number in reversed(numbers(storage)):
        record = read(storage, number)
        if record is not None and not record.claim:
            return number, record
    return None


def is_over(storage: Storage, number: int, record: LeaseRecord, ttl_s: float, clock: Callable[[], float]) -> bool:
    """Whether the next one may work: the lease was given back, it expired, or its owner is known to have ended.

    The clock of another machine may be wrong, so its lease expires by the storage's own times: of when it was renewed,
    and of now.

    Args:
        storage: Where it lies.
        number: Its number.
        record: Its record.
        ttl_s: Seconds until it expires, where it does not tell.
        clock: Of this machine, seconds since 1970.
    """
    if record.released or record.owner in given_up or record.process.is_dead():
        return True
    left = record.expires - clock()
    if record.process.is_here or left < -DAY_S:
        return left <= 0
    renewed = storage.written_at(numbered(storage, number))
    now = _time_of(storage)
    if renewed is None or now is None or renewed > now:
        # The storage does not tell, or its times are a copy's.
        return left <= 0
    return now - renewed >= (record.ttl_s or ttl_s)


def _time_of(storage: Storage) -> float | None:
    """Returns the time of a storage, seconds since 1970, where it tells when a file was written."""
    path = storage.join(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    try:
        storage.write_atomic(path, b"")
        return storage.written_at(path)
    finally:
        storage.delete(path)
