"""Claims: of several that would take a lease at the same moment, one gets it.

Two that look at the same moment may choose two numbers, and neither sees the other's by looking first. So what is
created is a claim, and only who has looked again, and found nobody, makes it a lease: of two, the later one to look
finds the other. Claims give way to owners, and to claims with a lower number. A claim waits for higher ones, until they
are gone or turn out to have looked before it was there (as L. Lamport's bakery, 1974; here processes may die).
"""

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

import msgspec

from polar_ray.data.exclusive import create
from polar_ray.data.lease_record import LeaseRecord, given_up, is_over, owner, read
from polar_ray.data.liveness import Process
from polar_ray.data.numbered import numbered, numbers
from polar_ray.data.storage import Storage
from polar_ray.errors import NotShareable, PolarRayError

SETTLING_S = 0.02
"""Seconds until it is looked again whether others that would begin at the same moment have given way."""


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


def claimed(
    storage: Storage, ttl_s: float, work: Purpose, above: int, clock: Callable[[], float]
) -> tuple[int, LeaseRecord | None]:
    """Tries once to take a lease; returns its number, and its record, or None where it is to be tried again.

    Args:
        storage: The folder of the leases.
        ttl_s: Seconds until it expires unless it is renewed.
        work: What is done under it.
        above: Its number is higher than this.
        clock: Seconds since 1970.

    Raises:
        Busy: Another owner holds it, or will.
        NotShareable: The storage cannot keep two apart, and the work is strict.
    """
    token = max(_look(storage, ttl_s, clock), above) + 1
    now = clock()
    since = datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds")
    name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    mine = LeaseRecord(
        owner=name, since=since, expires=now + ttl_s, process=Process.this(), claim=True, ttl_s=float(ttl_s)
    )
    try:
        if not _create(storage, token, mine, work):
            return token, None
        if not _settled(storage, token, mine, clock):
            _withdraw(storage, token, mine)
            return token, None
        mine = msgspec.structs.replace(mine, claim=False, expires=clock() + ttl_s)
        storage.write_atomic(numbered(storage, token), msgspec.json.encode(mine))
        found = owner(storage)
        if found is None or (found[0], found[1].owner) != (token, name):
            # This process slept before it wrote, so long that another took over.
            _withdraw(storage, token, mine)
            return token, None
    except BaseException:
        _withdraw(storage, token, mine)
        raise
    return token, mine


def _look(storage: Storage, ttl_s: float, clock: Callable[[], float]) -> int:
    """Returns the highest number there is.

    Raises:
        Busy: Somebody has the lease, or claims it.
    """
    found = numbers(storage)
    for number in reversed(found):
        record = read(storage, number)
        if record is None:
            continue
        if not is_over(storage, number, record, ttl_s, clock):
            raise Busy(record)
        if not record.claim:
            # It has overtaken all those before.
            break
    return max(found, default=0)


def _settled(storage: Storage, token: int, mine: LeaseRecord, clock: Callable[[], float]) -> bool:
    """Waits until nobody else can have the lease; returns False where it is to be tried again.

    Args:
        storage: Of the leases.
        token: Of the claim.
        mine: The claim.
        clock: Seconds since 1970.

    Raises:
        Busy: Somebody else has it, or will.
    """
    while clock() < mine.expires:
        waits = is_there = False
        for number in reversed(numbers(storage)):
            record = read(storage, number)
            if record is None:
                continue
            if number == token and record.owner == mine.owner:
                is_there = True
            elif is_over(storage, number, record, mine.ttl_s, clock):
                if number >= token:
                    # This process slept between looking and creating: others came and went.
                    return False
                if not record.claim:
                    # Whoever has a lower number has found this one, or had been found by it.
                    break
            elif not record.claim or number <= token:
                raise Busy(record)
            else:
                waits = True
        if not is_there:
            # It was deleted, and with it what tells others.
            return False
        if not waits:
            return True
        time.sleep(SETTLING_S)
    return False


def _withdraw(storage: Storage, token: int, mine: LeaseRecord) -> None:
    """Deletes a claim, as long as it is there."""
    given_up.add(mine.owner)
    # Should the storage be away, it expires by itself.
    with contextlib.suppress(OSError, PolarRayError):
        record = read(storage, token)
        if record is not None and record.owner == mine.owner:
            storage.delete(numbered(storage, token))


def _create(storage: Storage, token: int, record: LeaseRecord, work: Purpose) -> bool:
    """Creates the file of a lease; returns whether nobody else has."""
    path, data = numbered(storage, token), msgspec.json.encode(record)
    try:
        if not create(storage, path, data):
            # Or this process has, and the answer was lost on its way, so that the client asked again.
            return _is_there(storage, token, record)
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
    return _is_there(storage, token, record)


def _is_there(storage: Storage, token: int, mine: LeaseRecord) -> bool:
    record = read(storage, token)
    return record is not None and record.owner == mine.owner
