"""What each stage worked and waited, from the records of splits."""

from pathlib import Path

import pytest

from polar_ray.running.manifest import Manifest
from polar_ray.running.waiting import stage_times


def test_an_actor_waited_when_it_did_not_work() -> None:
    times = stage_times({"score:": 9.0}, {"score:": 1.0}, 20.0)
    assert times == {"score": {"busy_s": 9.0, "waited": 0.1}}


def test_an_actor_that_verifies_does_not_wait() -> None:
    times = stage_times({"score:": 6.0, "verify:": 3.0}, {"score:": 1.0}, 20.0)
    assert times == {"score": {"busy_s": 6.0, "waited": 0.1}, "verify": {"busy_s": 3.0}}


def test_a_stage_of_tasks_waited_while_one_worker_would_have_had_nothing_to_do() -> None:
    times = stage_times({"read": 5.0, "write": 30.0}, {}, 20.0)
    assert times == {"read": {"busy_s": 5.0, "waited": 0.75}, "write": {"busy_s": 30.0, "waited": 0.0}}


def test_parsing_gathering_and_tokenizing_are_one_stage() -> None:
    times = stage_times({"parse": 1.0, "gather": 2.0, "encode:": 4.0, "encode:polar": 1.0}, {}, 10.0)
    assert times == {"encode": {"busy_s": 8.0, "waited": 0.2}}


def test_each_scorer_has_its_own_entry_in_the_order_of_the_pipeline() -> None:
    seconds = {"write": 1.0, "score:polar": 3.0, "score:length": 1.0, "read": 1.0}
    times = stage_times(seconds, {"score:polar": 1.0, "score:length": 1.0}, 10.0)
    assert list(times) == ["read", "score polar", "score length", "write"]
    assert times["score polar"]["waited"] == 0.25
    assert times["score length"]["waited"] == 0.5


def test_nothing_done_in_this_attempt_gives_no_stages() -> None:
    assert stage_times({}, {}, 0.0) == {}


def test_a_run_tells_the_times_of_its_stages(finished: tuple[Path, Manifest]) -> None:
    _, manifest = finished
    assert list(manifest.stages) == ["read", "encode", "score", "write"]
    for times in manifest.stages.values():
        assert times["busy_s"] > 0
        assert 0 <= times["waited"] <= 1
    # The scorer's own clock: what it worked and waited fits into the time of the whole.
    score = manifest.stages["score"]
    assert score["busy_s"] == pytest.approx(manifest.stage_seconds["score:"], abs=1e-3)
    assert score["busy_s"] / (1 - score["waited"]) <= manifest.scoring_s
