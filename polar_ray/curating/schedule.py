"""The clock-driven mode: ticks at regular times, for those who have no scheduler.

Ticks never overlap. Times that pass while one works are one tick, not many. A tick that fails is said to have failed,
and the next one goes on with what it left.
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Protocol

from cronsim import CronSim, CronSimError

from polar_ray.errors import RecipeError
from polar_ray.running.progress import Reporter

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Times(Protocol):
    """When ticks are due."""

    def first(self, now: datetime) -> datetime:
        """Returns the time of the first tick."""
        ...

    def after(self, now: datetime) -> datetime:
        """Returns the time of the next tick, later than now."""
        ...


class Every:
    """At once, and then after each interval, such as ``30m``, ``1h`` or ``1d``.

    Raises:
        RecipeError: The interval is none.
    """

    def __init__(self, interval: str) -> None:
        match = re.fullmatch(r"([1-9]\d*)([smhd])", interval)
        if match is None:
            raise RecipeError(f"--every {interval!r} must be a number with s, m, h or d, such as 30m, 1h or 1d")
        self._interval = timedelta(**{_UNITS[match[2]]: int(match[1])})
        self._start: datetime | None = None

    def first(self, now: datetime) -> datetime:
        """Returns now; the others are counted from here."""
        self._start = now
        return now

    def after(self, now: datetime) -> datetime:
        """Returns the next whole interval from the start."""
        assert self._start is not None
        return self._start + ((now - self._start) // self._interval + 1) * self._interval


class Cron:
    """At the times, in UTC, of a cron expression with five fields, such as ``0 3 * * *``.

    Raises:
        RecipeError: The expression is none.
    """

    def __init__(self, expression: str) -> None:
        self._expression = expression
        try:
            CronSim(expression, datetime.now(timezone.utc))
        except CronSimError as error:
            raise RecipeError(
                f"--cron {expression!r} is no cron expression ({error}): it has five fields, as in '0 3 * * *' for "
                "three o'clock (UTC) every night"
            ) from error

    def first(self, now: datetime) -> datetime:
        """Returns the next time that fits."""
        return self.after(now)

    def after(self, now: datetime) -> datetime:
        """Returns the next time that fits."""
        return next(CronSim(self._expression, now))


class Clock(Protocol):
    """What tells the time and waits."""

    def now(self) -> datetime:
        """Returns the time, with its zone."""
        ...

    def wait(self, until: datetime) -> None:
        """Returns at a time, or at once when it has passed."""
        ...


class SystemClock:
    """This machine's clock."""

    def now(self) -> datetime:
        """Returns the time in UTC."""
        return datetime.now(timezone.utc)

    def wait(self, until: datetime) -> None:
        """Sleeps. In short pieces: a clock that is set, or a machine that was asleep, must not make it sleep on."""
        while (left := (until - self.now()).total_seconds()) > 0:
            time.sleep(min(left, 30))


def keep_ticking(times: Times, tick: Callable[[], int], reporter: Reporter, clock: Clock) -> None:
    """Runs ticks for ever; an exception that ``wait`` or ``tick`` raises ends it.

    Args:
        times: When ticks are due.
        tick: Runs one and returns its exit code.
        reporter: Is told about ticks that fail, and when the next one is due.
        clock: Tells the time and waits.
    """
    due = times.first(clock.now())
    while True:
        clock.wait(due)
        code = tick()
        if code:
            reporter.say(f"the tick failed with exit code {code}; the next one goes on with what it left")
        due = times.after(clock.now())
        reporter.say(f"next tick at {due:%Y-%m-%d %H:%M:%S %Z}")


def tick_in_process(recipe: str, overrides: list[str]) -> int:
    """Runs one tick as a process of its own and returns its exit code.

    Whatever becomes of it, the clock goes on; and nothing that Ray or a model leaves in memory adds up over weeks. If
    this process is told to stop, the tick is told so too, and ends first.
    """
    process = subprocess.Popen([sys.executable, "-m", "polar_ray", "curate", recipe, *overrides])
    try:
        return process.wait()
    except BaseException:
        # Whatever ends this process: the tick's lease must not be left to expire.
        process.terminate()
        process.wait()
        raise
