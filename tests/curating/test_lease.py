"""Of several that want the lease one gets it; a dead owner's expires; who was asleep finds out."""

import threading
import time

import msgspec
import pytest

from polar_ray.curating import lease
from polar_ray.curating.lease import REMEMBERED, Busy, Lease, LeaseRecord
from polar_ray.curating.records import decode
from polar_ray.data.exclusive import create
from polar_ray.data.storage import Storage
from polar_ray.errors import LeaseLost, StateError, StorageError


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def record(folder: Storage, token: int) -> LeaseRecord:
    return decode(folder, folder.join(f"{token:012d}.json"), LeaseRecord, 1)


def test_of_many_that_create_a_file_at_once_one_succeeds(folder: Storage) -> None:
    together = threading.Barrier(8)
    won: list[int] = []

    def contend(number: int) -> None:
        together.wait()
        if create(folder, folder.join("x.json"), str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=contend, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert folder.read_bytes(folder.join("x.json")) == str(won[0]).encode()
    assert [info.path for info in folder.list()] == [folder.join("x.json")]


def test_a_storage_that_is_not_known_to_be_able_to_is_refused() -> None:
    storage = Storage.of("memory://bucket/leases")
    with pytest.raises(StorageError, match=r"known to work on local paths and on s3://"):
        create(storage, storage.join("x.json"), b"")


def test_while_one_holds_the_lease_another_is_told_who(folder: Storage) -> None:
    clock = Clock()
    with Lease.take(folder, 60, clock=clock) as held:
        clock.now += 59
        with pytest.raises(Busy, match="has worked since 2023-11-14T22:13:20") as busy:
            Lease.take(folder, 60, clock=clock)
        held.check()
    assert busy.value.record == msgspec.structs.replace(record(folder, 1), released=False)


def test_a_lease_that_was_given_back_can_be_taken_at_once(folder: Storage) -> None:
    clock = Clock()
    for token in (1, 2, 3):
        with Lease.take(folder, 60, clock=clock) as held:
            assert held.token == token
    assert record(folder, 3).released


def test_the_lease_of_a_crashed_owner_expires_and_is_taken_over(folder: Storage) -> None:
    clock = Clock()
    crashed = Lease.take(folder, 60, clock=clock)
    clock.now += 60
    with pytest.raises(LeaseLost, match="could not renew its lease"):
        crashed.check()
    with Lease.take(folder, 60, clock=clock) as held:
        assert held.token == 2
        held.check()


def test_an_owner_whose_clock_is_slow_finds_that_another_took_over(folder: Storage) -> None:
    slow, right = Clock(), Clock()
    asleep = Lease.take(folder, 60, clock=slow)
    right.now += 61
    with Lease.take(folder, 60, clock=right) as held:
        with pytest.raises(LeaseLost, match="nothing was published"):
            asleep.check()
        # What the one that was asleep writes into its own file concerns nobody.
        asleep.renew()
        held.check()


def test_whoever_slept_between_looking_and_creating_does_not_get_an_old_number(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    for _ in range(2):
        with Lease.take(folder, 60, clock=clock):
            pass
    folder.delete(folder.join("000000000001.json"))
    with Lease.take(folder, 60, clock=clock):
        # The first look of this one is from before there was any lease.
        looks, really = [0], lease._highest
        monkeypatch.setattr(lease, "_highest", lambda storage: looks.pop() if looks else really(storage))
        with pytest.raises(Busy):
            Lease.take(folder, 60, clock=clock)
    assert not folder.is_file(folder.join("000000000001.json"))


def test_the_owner_renews_its_lease_while_it_works(folder: Storage) -> None:
    with Lease.take(folder, 2) as held:
        first = record(folder, 1).expires
        deadline = time.monotonic() + 20
        while record(folder, 1).expires < first + 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        held.check()
        with pytest.raises(Busy):
            Lease.take(folder, 2)


def test_old_leases_are_forgotten(tmp_path: object) -> None:
    folder, clock = Storage.of(str(tmp_path)), Clock()
    for _ in range(REMEMBERED + 5):
        with Lease.take(folder, 60, clock=clock):
            pass
    names = [info.path.rsplit("/", 1)[-1] for info in folder.list()]
    assert len(names) == REMEMBERED
    assert names[-1] == f"{REMEMBERED + 5:012d}.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is damaged"), (b'{"schema": 1}', "is damaged"), (b'{"schema": 9}', "has schema 9.*use a newer one")],
)
def test_a_damaged_lease_is_no_free_lease(tmp_path: object, content: bytes, message: str) -> None:
    folder = Storage.of(str(tmp_path))
    folder.write_atomic(folder.join("000000000001.json"), content)
    with pytest.raises(StateError, match=message):
        Lease.take(folder, 60)
