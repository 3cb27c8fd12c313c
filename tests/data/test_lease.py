"""Of several that want the lease one gets it; a dead owner's expires; who was asleep finds out."""

import subprocess
import sys
import threading
import time
import uuid

import msgspec
import pytest
from s3_server import careless_bucket

from polar_ray.data import claim, lease_record
from polar_ray.data.claim import Busy, Purpose
from polar_ray.data.exclusive import create
from polar_ray.data.lease import REMEMBERED, Lease
from polar_ray.data.lease_record import LeaseRecord
from polar_ray.data.liveness import Process
from polar_ray.data.one_writer import one_writer
from polar_ray.data.storage import Storage
from polar_ray.data.versioned import decode
from polar_ray.errors import LeaseLost, NotShareable, OutputBusy, StateError, StorageAway, StorageError

TICK = Purpose("tick", "nothing was published", "lease_s")
RUN = Purpose("run", "it ends here", strict=False)


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def record(folder: Storage, token: int) -> LeaseRecord:
    return decode(folder, folder.join(f"{token:012d}.json"), LeaseRecord, 1, "")


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
    with Lease.take(folder, 60, TICK, clock=clock) as held:
        clock.now += 59
        with pytest.raises(Busy, match="has worked since 2023-11-14T22:13:20") as busy:
            Lease.take(folder, 60, TICK, clock=clock)
        held.check()
    assert busy.value.record == msgspec.structs.replace(record(folder, 1), released=False)
    assert not busy.value.record.claim


def test_a_lease_that_was_given_back_can_be_taken_at_once(folder: Storage) -> None:
    clock = Clock()
    for token in (1, 2, 3):
        with Lease.take(folder, 60, TICK, clock=clock) as held:
            assert held.token == token
    assert record(folder, 3).released


def test_the_lease_of_a_crashed_owner_expires_and_is_taken_over(folder: Storage) -> None:
    clock = Clock()
    crashed = Lease.take(folder, 60, TICK, clock=clock)
    clock.now += 60
    with pytest.raises(LeaseLost, match="could not renew its lease"):
        crashed.check()
    with Lease.take(folder, 60, TICK, clock=clock) as held:
        assert held.token == 2
        held.check()


def test_an_owner_whose_clock_is_slow_finds_that_another_took_over(folder: Storage) -> None:
    slow, right = Clock(), Clock()
    asleep = Lease.take(folder, 60, TICK, clock=slow)
    right.now += 61
    with Lease.take(folder, 60, TICK, clock=right) as held:
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
        with Lease.take(folder, 60, TICK, clock=clock):
            pass
    folder.delete(folder.join("000000000001.json"))
    with Lease.take(folder, 60, TICK, clock=clock):
        # The first look of this one is from before there was any lease.
        looks, really = [[]], claim.numbers
        monkeypatch.setattr(claim, "numbers", lambda storage: looks.pop() if looks else really(storage))
        with pytest.raises(Busy):
            Lease.take(folder, 60, TICK, clock=clock)
    assert not folder.is_file(folder.join("000000000001.json"))


def test_a_lease_that_is_deleted_between_looking_and_reading_keeps_nobody_out(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, really = [[7]], claim.numbers
    monkeypatch.setattr(claim, "numbers", lambda storage: looks.pop() if looks else really(storage))
    with Lease.take(folder, 60, RUN) as held:
        assert held.token == 8


def test_a_storage_that_is_away_while_a_lease_is_created_gives_it_to_nobody(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Lease.take(folder, 60, RUN)

    def away(*_: object) -> bool:
        raise StorageAway("the storage could not be used")

    monkeypatch.setattr(claim, "create", away)
    # As it was for whoever looked before the other one came.
    monkeypatch.setattr(claim, "numbers", lambda storage: [])
    with pytest.raises(StorageAway):
        Lease.take(folder, 60, RUN)
    monkeypatch.undo()
    other.check()


def test_an_owner_that_could_not_give_its_lease_back_keeps_nobody_in_its_process_out(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bool:
        raise StorageAway("the storage could not be used")

    with Lease.take(folder, 60, RUN):
        monkeypatch.setattr("polar_ray.data.lease.owner", away)
    monkeypatch.undo()
    assert not record(folder, 1).released
    with Lease.take(folder, 60, RUN) as held:
        assert held.token == 2


def test_the_owner_renews_its_lease_while_it_works(folder: Storage) -> None:
    with Lease.take(folder, 2, TICK) as held:
        first = record(folder, 1).expires
        deadline = time.monotonic() + 20
        while record(folder, 1).expires < first + 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        held.check()
        with pytest.raises(Busy):
            Lease.take(folder, 2, TICK)


def test_old_leases_are_forgotten(tmp_path: object) -> None:
    folder, clock = Storage.of(str(tmp_path)), Clock()
    for _ in range(REMEMBERED + 5):
        with Lease.take(folder, 60, TICK, clock=clock):
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
        Lease.take(folder, 60, TICK)


def test_a_lease_has_a_higher_number_than_what_was_written_under_those_that_are_gone(folder: Storage) -> None:
    with Lease.take(folder, 60, TICK, above=7) as held:
        assert held.token == 8


def test_a_copy_of_a_lease_is_none(folder: Storage) -> None:
    with Lease.take(folder, 60, TICK):
        pass
    for name in ("000000000001 (copy).json", "9.json", "backup.json", "²²²²²²²²²²²².json"):
        folder.write_atomic(folder.join(name), b"{}")
    with Lease.take(folder, 60, TICK) as held:
        assert held.token == 2


def test_an_owner_whose_lease_is_gone_does_not_go_on(folder: Storage) -> None:
    held = Lease.take(folder, 60, TICK)
    folder.delete(folder.join("000000000001.json"))
    with pytest.raises(
        LeaseLost, match=r"somebody deleted the lease of this tick in .*another one may have taken over"
    ):
        held.check()
    held.renew()
    assert held.taken_over
    assert folder.list() == []


def test_of_two_that_hold_the_same_number_the_one_whose_record_is_there_goes_on(folder: Storage) -> None:
    first = Lease.take(folder, 60, TICK)
    path = folder.join("000000000001.json")
    theirs = msgspec.structs.replace(record(folder, 1), owner="elsewhere:1:x")
    folder.write_atomic(path, msgspec.json.encode(theirs))
    with pytest.raises(LeaseLost, match=r"another tick \(process 1 on elsewhere\) has taken over .* though this one"):
        first.check()
    first.renew()
    assert first.taken_over
    assert record(folder, 1) == theirs
    # Nor do its helpers, though the number is theirs.
    with pytest.raises(LeaseLost):
        first.fence.check()


def test_a_store_that_ignores_conditions_is_refused_unless_two_do_no_harm() -> None:
    with careless_bucket() as store:
        folder = Storage.of(f"s3://bucket/{uuid.uuid4().hex}", store.options)
        assert create(folder, folder.join("x"), b"1")
        assert create(folder, folder.join("x"), b"2")
        with pytest.raises(NotShareable, match="created the same file twice, so it ignores If-None-Match"):
            Lease.take(Storage.of(folder.join("tick"), store.options), 60, TICK)
        # Nothing is left that would keep another one out.
        assert Storage.of(folder.join("tick"), store.options).list() == []
        runs = Storage.of(folder.join("run"), store.options)
        with Lease.take(runs, 60, RUN) as held:
            held.check()
            with pytest.raises(Busy):
                Lease.take(runs, 60, RUN)


def test_the_lease_of_a_process_of_this_machine_that_has_ended_is_taken_over_at_once(folder: Storage) -> None:
    clock = Clock()
    Lease.take(folder, 60, TICK, clock=clock)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        alive = msgspec.structs.replace(record(folder, 1), process=Process.of(child.pid))
        folder.write_atomic(folder.join("000000000001.json"), msgspec.json.encode(alive))
        with pytest.raises(Busy):
            Lease.take(folder, 60, TICK, clock=clock)
        child.kill()
        deadline = time.monotonic() + 60
        # As long as nobody asks how it ended it is a zombie.
        while not alive.process.is_dead():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with Lease.take(folder, 60, TICK, clock=clock) as held:
            assert held.token == 2
    assert alive.process.is_dead()


def test_of_processes_elsewhere_and_of_those_that_have_a_dead_ones_number_nothing_is_concluded_wrongly() -> None:
    here = Process.this()
    assert not here.is_dead()
    assert not msgspec.structs.replace(here, place="another machine", pid=2**22 + 1).is_dead()
    # What earlier versions wrote.
    assert not Process().is_dead()
    # Its number is that of another process by now.
    assert msgspec.structs.replace(here, started="1").is_dead()


def test_an_earlier_version_reads_what_this_one_writes_and_the_other_way_round(
    folder: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record as earlier versions have it."""

    class Earlier(msgspec.Struct, frozen=True, kw_only=True):
        schema: int = 1
        owner: str
        since: str
        expires: float
        released: bool = False

    clock = Clock()
    theirs = Earlier(owner="host:1:x", since="2023-11-14T22:13:20+00:00", expires=clock.now + 60)
    folder.write_atomic(folder.join("000000000004.json"), msgspec.json.encode(theirs))
    with pytest.raises(Busy, match="host:1:x has worked since"):
        Lease.take(folder, 60, TICK, clock=clock)
    clock.now += 60
    monkeypatch.setattr(lease_record, "_time_of", lambda storage: time.time() + 60)
    with Lease.take(folder, 60, TICK, clock=clock):
        read = msgspec.json.decode(folder.read_bytes(folder.join("000000000005.json")), type=Earlier)
    assert read.expires == clock.now + 60


def test_a_lease_that_is_not_strict_lives_on_though_it_expired_while_nobody_took_over(folder: Storage) -> None:
    clock = Clock()
    held = Lease.take(folder, 60, RUN, clock=clock)
    clock.now += 600
    held.check()
    held.renew()
    with pytest.raises(Busy):
        Lease.take(folder, 60, RUN, clock=clock)
    held.fence.check()
    clock.now += 600
    with Lease.take(folder, 60, RUN, clock=clock):
        with pytest.raises(LeaseLost, match="it ends here"):
            held.check()
        with pytest.raises(LeaseLost, match="another run has taken over"):
            held.fence.check()


def test_who_did_not_renew_its_lease_in_time_is_told_who_took_over_and_for_how_long_it_was_silent(
    folder: Storage,
) -> None:
    clock = Clock()
    asleep = Lease.take(folder, 60, RUN, clock=clock)
    clock.now += 3600
    with Lease.take(folder, 60, RUN, clock=clock):
        said = (
            r"another run \(process \d+ on .*\) has taken over .*, this one did not renew its lease for 3600 s; it ends"
        )
        with pytest.raises(LeaseLost, match=said):
            asleep.check()


def test_what_is_done_often_asks_the_storage_now_and_then(folder: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = Clock(), []
    really = lease_record.owner
    monkeypatch.setattr("polar_ray.data.lease.owner", lambda storage: asked.append(clock.now) or really(storage))
    held = Lease.take(folder, 60, RUN, clock=clock)
    for _ in range(100):
        held.check_lately()
        clock.now += 1
    # As it is never renewed here, half of its life is over after 30 seconds.
    start = asked[0]
    assert [now - start for now in asked[:4]] == [0, 10, 20, 30]
    assert len(asked) == 3 + 70


def theirs(folder: Storage, number: int, **changes: object) -> None:
    """Writes the lease of a process of another machine."""
    there = {
        "owner": "elsewhere:1:x",
        "since": "2026-01-01T00:00:00+00:00",
        "expires": time.time() + 60,
        "process": Process("another machine", 1, "1"),
        "ttl_s": 60.0,
    }
    record = LeaseRecord(**{**there, **changes})  # type: ignore[arg-type]
    folder.write_atomic(folder.join(f"{number:012d}.json"), msgspec.json.encode(record))


@pytest.mark.parametrize("wrong_by", [-3600, 0, 3600])
def test_a_lease_of_another_machine_expires_by_the_storages_time_whatever_that_machines_clock_says(
    folder: Storage, monkeypatch: pytest.MonkeyPatch, wrong_by: int
) -> None:
    theirs(folder, 1, expires=time.time() + 60 + wrong_by)
    with pytest.raises(Busy):
        Lease.take(folder, 60, TICK)
    # The files in which the storage's time was asked are gone.
    assert [info.path for info in folder.list()] == [folder.join("000000000001.json")]
    monkeypatch.setattr(lease_record, "_time_of", lambda storage: time.time() + 61)
    with Lease.take(folder, 30, TICK) as held:
        assert held.token == 2


def test_a_lease_that_expired_days_ago_is_over_though_its_folder_was_copied_just_now(folder: Storage) -> None:
    theirs(folder, 1, expires=time.time() - 2 * 86_400)
    with Lease.take(folder, 60, TICK) as held:
        assert held.token == 2


@pytest.mark.parametrize("name", ["x", "", "host:1", ":::", "a:b:c:1:x"])
@pytest.mark.parametrize("pid", [2**31, 2**63 - 1, 0, -1])
def test_a_record_of_odd_content_is_one_sentence(tmp_path: object, name: str, pid: int) -> None:
    folder = Storage.of(str(tmp_path))
    theirs(Storage.of(folder.join("_run", "lease")), 1, owner=name, process=Process(Process.this().place, pid, ""))
    said = r"another run has been writing into .* since 2026.*; wait for its end"
    with pytest.raises(OutputBusy, match=said), one_writer(folder, "_run", RUN):
        pass


def test_after_the_highest_number_comes_none(tmp_path: object) -> None:
    folder = Storage.of(str(tmp_path))
    theirs(folder, 10**12 - 1, released=True)
    with pytest.raises(StateError, match=r"has a file with the highest number there can be.*delete that file"):
        Lease.take(folder, 60, RUN)
    assert len(folder.list()) == 1
