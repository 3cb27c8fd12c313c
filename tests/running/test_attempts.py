"""The attempt log finds out which group kills the process that scores it."""

import time
from pathlib import Path

import pytest

from polar_ray.running.attempts import AttemptLog, Failures
from polar_ray.running.folder import RunFolder


@pytest.fixture
def log() -> AttemptLog:
    return AttemptLog()


def test_the_first_attempt_knows_of_no_death(log: AttemptLog) -> None:
    attempt = log.begin("s")
    assert (attempt.deaths, attempt.set_aside, attempt.probed, attempt.deaths_after_probe) == (0, [], False, 0)


def test_an_attempt_that_never_came_back_is_a_death(log: AttemptLog) -> None:
    deaths = [log.begin("s").deaths for _ in range(3)]
    assert deaths == [0, 1, 2]


def test_a_split_that_was_finished_starts_anew(log: AttemptLog) -> None:
    log.begin("s")
    log.begin("s")
    log.finish("s", "polar", 0, rewarded=True)
    assert log.begin("s").deaths == 0


def test_splits_are_remembered_apart(log: AttemptLog) -> None:
    log.begin("a")
    assert log.begin("b").deaths == 0
    assert log.begin("a").deaths == 1


def test_the_group_that_was_scored_alone_when_the_process_died_is_set_aside(log: AttemptLog) -> None:
    log.begin("s")
    log.alone("s", 0)
    log.alone("s", 3)
    assert log.begin("s").set_aside == [3]
    log.alone("s", 5)
    assert log.begin("s").set_aside == [3, 5]


def test_a_death_before_the_search_sets_no_group_aside(log: AttemptLog) -> None:
    log.begin("s")
    attempt = log.begin("s")
    assert attempt.deaths == 1
    assert attempt.set_aside == []


def test_a_death_after_every_group_survived_alone_is_counted_apart(log: AttemptLog) -> None:
    log.begin("s")
    log.alone("s", 0)
    log.probed("s")
    attempt = log.begin("s")
    assert (attempt.probed, attempt.set_aside, attempt.deaths_after_probe) == (True, [], 1)


def test_finishing_a_split_twice_does_no_harm(log: AttemptLog) -> None:
    log.begin("s")
    log.finish("s", "polar", 0, rewarded=True)
    log.finish("s", "polar", 0, rewarded=True)
    assert log.begin("s").deaths == 0


def test_the_first_actor_that_is_ready_ends_the_start_up() -> None:
    log = AttemptLog()
    assert log.ready_at() is None
    before = time.time()
    log.starting("a")
    log.started("a")
    first = log.ready_at()
    log.starting("b")
    log.started("b")
    assert first is not None
    assert before <= first <= time.time()
    assert log.ready_at() == first


def test_the_first_actor_of_a_scorer_says_how_much_is_packed_together_and_a_resumed_run_keeps_to_it(
    tmp_path: Path,
) -> None:
    folder = RunFolder.of(str(tmp_path / "run"))
    log = AttemptLog(folder)
    assert [log.agree("polar", 4096), log.agree("polar", 8192), log.agree("other", 1024)] == [4096, 4096, 1024]
    assert AttemptLog(folder).agree("polar", 16384) == 4096


def whole(failed: int = 6) -> Failures:
    """Those of a process that fails on all of its first split."""
    return Failures(failed, failed, failed, failed)


def partial(failed_ever: int, tried_ever: int) -> Failures:
    """Those of a process that has failed on half of its last twenty candidates."""
    return Failures(10, 20, failed_ever, tried_ever)


def failing(log: AttemptLog, split: str, scorer: str = "polar") -> bool:
    """Whether a process that fails on all of a split is replaced; the next one fails on it too."""
    replaced = log.replace(split, scorer, whole())
    assert not (replaced and log.replace(split, scorer, whole()))
    log.finish(split, scorer, 6, rewarded=False)
    return replaced


def test_a_process_that_fails_on_all_of_a_split_is_replaced_once_for_it(log: AttemptLog) -> None:
    log.begin("s")
    assert log.replace("s", "polar", whole())
    # Its end was ordered, so it is no death of the split's.
    assert log.begin("s").deaths == 0
    assert not log.replace("s", "polar", whole())


def test_a_scorer_whose_new_processes_fare_no_better_is_not_replaced_any_more(log: AttemptLog) -> None:
    assert [failing(log, split) for split in "abcd"] == [True, True, True, False]
    assert failing(log, "d", "length")


def test_a_scorer_that_gives_rewards_again_has_its_failing_processes_replaced_again(log: AttemptLog) -> None:
    assert [failing(log, split) for split in "abc"] == [True, True, True]
    # Another scorer's rewards, and a split that nobody could score, say nothing about this one.
    log.finish("x", "length", 0, rewarded=True)
    log.finish("y", "polar", 0, rewarded=False)
    assert not failing(log, "d")
    log.finish("e", "polar", 0, rewarded=True)
    # A sick actor beside a sound one does not become a sink after three splits that are bad themselves.
    assert [failing(log, split) for split in "fghi"] == [True, True, True, False]


def test_a_process_that_fails_on_many_groups_is_replaced_though_it_scores_the_others(log: AttemptLog) -> None:
    assert not log.replace("a", "polar", partial(49, 98))
    assert not log.replace("a", "polar", partial(60, 1200))
    assert log.replace("a", "polar", partial(60, 1199))
    assert not log.replace("a", "polar", partial(10, 20))


def test_while_it_is_not_known_whether_that_helps_no_other_process_is_replaced_for_it(log: AttemptLog) -> None:
    assert log.replace("a", "polar", partial(50, 100))
    assert not log.replace("b", "polar", partial(50, 100))
    assert log.replace("c", "length", partial(50, 100))
    log.finish("a", "polar", 4, rewarded=True)
    assert log.replace("b", "polar", partial(50, 100))


def test_where_errors_are_the_datas_new_processes_become_rarer_and_rarer(log: AttemptLog) -> None:
    for split, needed in (("a", 50), ("b", 100), ("c", 200)):
        assert not log.replace(split, "polar", partial(needed - 1, 2 * needed))
        assert log.replace(split, "polar", partial(needed, 2 * needed))
        # Errors come and go with some scorers: less than half of them gone is no help.
        log.finish(split, "polar", 9, rewarded=True)
    # A split that all actors score well says nothing of those that they do not.
    log.finish("d", "polar", 0, rewarded=True)
    assert not log.replace("e", "polar", partial(399, 800))
    assert log.replace("e", "polar", partial(400, 800))
    log.finish("e", "polar", 0, rewarded=True)
    assert log.replace("f", "polar", partial(50, 100))
