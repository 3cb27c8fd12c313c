"""Ticks at regular times: none overlaps, none is made up for, and one that fails is not the last."""

import signal
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from processes import command, polar_ray, wait_for
from runs import Listening

from polar_ray.curating.schedule import Cron, Every, SystemClock, Times, keep_ticking
from polar_ray.errors import RecipeError

START = datetime(2026, 11, 20, 22, 30, tzinfo=timezone.utc)


class Enough(Exception):
    """The test has seen enough."""


class Clock:
    """A clock that passes only while somebody waits or works."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    def wait(self, until: datetime) -> None:
        self.time = max(self.time, until)


def ticks(
    times: Times, durations: list[float], codes: Callable[[int], int] = lambda number: 0
) -> tuple[list[str], list[str]]:
    """Returns when ticks began that take so many minutes, and what was said."""
    clock, listening, began = Clock(), Listening(), []

    def tick() -> int:
        if len(began) == len(durations):
            raise Enough
        began.append(f"{clock.time:%d %H:%M}")
        clock.time += timedelta(minutes=durations[len(began) - 1])
        return codes(len(began))

    with pytest.raises(Enough):
        keep_ticking(times, tick, listening, clock)
    return began, listening.said


def test_a_tick_every_hour_begins_at_once() -> None:
    assert ticks(Every("1h"), [5, 5, 5])[0] == ["20 22:30", "20 23:30", "21 00:30"]


def test_a_tick_at_three_every_night_waits_for_three() -> None:
    assert ticks(Cron("0 3 * * *"), [5, 5, 5])[0] == ["21 03:00", "22 03:00", "23 03:00"]


def test_times_that_pass_while_a_tick_works_are_skipped() -> None:
    assert ticks(Every("30m"), [70, 5, 5])[0] == ["20 22:30", "21 00:00", "21 00:30"]
    assert ticks(Cron("*/20 * * * *"), [45, 5])[0] == ["20 22:40", "20 23:40"]


def test_a_tick_that_fails_is_told_and_the_next_one_comes() -> None:
    began, said = ticks(Every("1h"), [5, 5], codes=lambda number: 1 if number == 1 else 0)
    assert began == ["20 22:30", "20 23:30"]
    assert said == [
        "the tick failed with exit code 1; the next one goes on with what it left",
        "next tick at 2026-11-20 23:30:00 UTC",
        "next tick at 2026-11-21 00:30:00 UTC",
    ]


@pytest.mark.parametrize("interval", ["1", "h", "0h", "-1h", "1.5h", "1w", ""])
def test_an_interval_that_is_none_is_refused(interval: str) -> None:
    with pytest.raises(RecipeError, match="such as 30m, 1h or 1d"):
        Every(interval)


@pytest.mark.parametrize("expression", ["", "3", "0 25 * * *", "0 3 * *", "nightly"])
def test_an_expression_that_is_none_is_refused(expression: str) -> None:
    with pytest.raises(RecipeError, match="it has five fields"):
        Cron(expression)


def test_this_machines_clock_waits_until_its_time() -> None:
    clock = SystemClock()
    until = clock.now() + timedelta(seconds=0.2)
    clock.wait(until)
    assert clock.now() >= until
    began = time.monotonic()
    clock.wait(until - timedelta(days=1))
    assert time.monotonic() - began < 10


def test_ticks_that_fail_go_on_until_the_process_is_told_to_stop(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    where, out = tmp_path / "nothing here", tmp_path / "out"
    recipe.write_text(f"input: {{path: {where}}}\nscorer: {{kind: length}}\nderive: {{}}\noutput: {{path: {out}}}\n")
    (tmp_path / "out" / "runs" / "x").mkdir(parents=True)
    with command([*polar_ray("curate", str(recipe)), "--every", "1s"], tmp_path / "log") as running:
        wait_for("two ticks", lambda: running.output.count("the tick failed with exit code 1") >= 2)
        running.popen.send_signal(signal.SIGTERM)
        assert running.wait() == 128 + signal.SIGTERM
        assert running.output.count("StateError") >= 2
        assert "Traceback" not in running.output
        assert running.output.endswith("polar-ray: terminated; run the same command again to go on\n")
