"""However the steps of several that take a lease at the same moment mix, one has it at a time, and somebody gets it."""

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from polar_ray.data import claim
from polar_ray.data.claim import Busy, Purpose
from polar_ray.data.lease import Lease
from polar_ray.data.lease_record import LeaseRecord, read
from polar_ray.data.liveness import Process
from polar_ray.data.storage import Storage

RUN = Purpose("run", "it ends here", strict=False)
TICK = Purpose("tick", "nothing was published", "lease_s")
SCHEDULES = 100


class Turns:
    """Lets one thread at a time take one step, in an order that a seed decides."""

    def __init__(self, seed: int, names: list[str]) -> None:
        self._random = random.Random(seed)
        self._running = set(names)
        self._waiting: set[str] = set()
        self._turn = ""
        self._changed = threading.Condition()

    def step(self) -> None:
        """Waits for this thread's turn; a thread that has no turns goes on at once."""
        name = threading.current_thread().name
        with self._changed:
            if name not in self._running:
                return
            self._waiting.add(name)
            self._choose()
            assert self._changed.wait_for(lambda: self._turn == name, timeout=60)
            self._turn = ""

    def ended(self) -> None:
        """Is told that this thread takes no more steps."""
        with self._changed:
            self._running.discard(threading.current_thread().name)
            self._choose()

    def _choose(self) -> None:
        # Only when all others have come to their next step is it decided who goes on: so no clock decides.
        if self._running and self._waiting == self._running and not self._turn:
            self._turn = self._random.choice(sorted(self._waiting))
            self._waiting.discard(self._turn)
            self._changed.notify_all()


def mixed(folder: Storage, work: Purpose, seed: int, all_turns: list[Turns]) -> list[int]:
    """Has three threads take the lease three times each; returns how many had it, each time that one got it."""
    names = [f"taker-{number}" for number in range(3)]
    turns = Turns(seed, names)
    all_turns.append(turns)
    held: list[int] = []
    most: list[int] = []
    well: list[bool] = []

    def take(above: int) -> None:
        try:
            for later in range(0, 300, 100):
                with suppress(Busy), Lease.take(folder, 60, work, above=above + later) as lease:
                    held.append(1)
                    most.append(sum(held))
                    lease.check()
                    lease.renew()
                    lease.check()
                    held.append(-1)
            well.append(True)
        finally:
            turns.ended()

    above = random.Random(seed).sample(range(100), len(names))
    threads = [threading.Thread(target=take, args=(above[i],), name=name) for i, name in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(well) == len(names), f"schedule {seed}"
    return most


@pytest.mark.parametrize("work", [RUN, TICK], ids=["run", "tick"])
def test_of_three_at_the_same_moment_one_at_a_time_has_the_lease_and_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Purpose
) -> None:
    turns: list[Turns] = []

    def stepping(operation: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            turns[-1].step()
            return operation(*args, **options)

        return step

    for method in (Storage.list, Storage.read_bytes, Storage.write_atomic, Storage.delete):
        monkeypatch.setattr(Storage, method.__name__, stepping(method))
    monkeypatch.setattr(claim, "create", stepping(claim.create))
    monkeypatch.setattr(claim, "SETTLING_S", 0)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    found_busy = 0
    for seed in range(SCHEDULES):
        most = mixed(Storage.of(str(tmp_path / str(seed))), work, seed, turns)
        assert set(most) == {1}, f"schedule {seed}"
        found_busy += len(most) < 9
    # The steps did mix: in most of the schedules somebody found another one at work.
    assert found_busy > SCHEDULES / 2


@pytest.mark.parametrize("above", [0, 500], ids=["lower", "higher"])
def test_who_looked_before_another_took_the_lease_gives_way_whatever_its_number(
    folder: Storage, monkeypatch: pytest.MonkeyPatch, above: int
) -> None:
    with Lease.take(folder, 60, RUN, above=100) as held:
        looks, really = [[]], claim.numbers
        monkeypatch.setattr(claim, "numbers", lambda storage: looks.pop() if looks else really(storage))
        with pytest.raises(Busy, match="has worked since"):
            Lease.take(folder, 60, RUN, above=above)
        held.check()
        assert len(folder.list()) == 1
    assert folder.list() == []


def test_the_claim_of_a_process_that_was_killed_keeps_nobody_out_and_takes_the_lease_from_nobody(
    folder: Storage,
) -> None:
    dead = msgspec.structs.replace(Process.this(), started="1")
    killed = LeaseRecord(owner="host:1:x", since="2026-01-01T00:00:00+00:00", expires=4e9, process=dead, claim=True)
    with Lease.take(folder, 60, RUN) as held:
        folder.write_atomic(folder.join("000000000009.json"), msgspec.json.encode(killed))
        held.check()
        held.fence.check()
        with pytest.raises(Busy):
            Lease.take(folder, 60, RUN)
        folder.write_atomic(folder.join("000000000008.json"), msgspec.json.encode(killed))
    assert folder.list() == []
    folder.write_atomic(folder.join("000000000009.json"), msgspec.json.encode(killed))
    with Lease.take(folder, 60, RUN) as held:
        assert held.token == 10


def test_who_has_the_lease_has_more_than_a_claim(folder: Storage) -> None:
    with Lease.take(folder, 60, RUN) as held:
        record = read(folder, held.token)
        assert record is not None
        assert not record.claim
