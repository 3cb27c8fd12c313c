"""Progress of a run: a bar in a terminal, a line every few seconds in a log."""

import sys
import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from polar_ray.running.tally import Tally
from polar_ray.terminal import printable, say


class Reporter(Protocol):
    """Is told what happens in a run."""

    def say(self, text: str) -> None:
        """Something worth a line of its own."""
        ...

    def begin(self, done_share: float) -> None:
        """Scoring starts; this share of the input was done before."""
        ...

    def update(self, tally: Tally, done_share: float) -> None:
        """A split was committed; this share of the input, between 0 and 1, is done."""
        ...

    def end(self) -> None:
        """Scoring is over, well or badly."""
        ...

    def done(self, tally: Tally, candidates_per_s: float, tokens_per_s: float) -> None:
        """The run is over, and these are the figures of its result: without the duplicates, with all commits."""
        ...


class Rates:
    """Candidates and tokens per second since scoring began in this attempt."""

    def __init__(self, tally: Tally) -> None:
        self._started = time.monotonic()
        self._candidates, self._tokens = tally.candidates, sum(tally.tokens.values())

    def of(self, tally: Tally) -> tuple[float, float]:
        """Returns (candidates/s, tokens/s)."""
        elapsed = max(time.monotonic() - self._started, 1e-9)
        candidates = tally.candidates - self._candidates
        tokens = sum(tally.tokens.values()) - self._tokens
        return candidates / elapsed, tokens / elapsed


def summary(tally: Tally, candidates_per_s: float, tokens_per_s: float) -> str:
    """Returns the figures of a run in one line."""
    parts = [f"{tally.candidates:,} candidates", f"{candidates_per_s:,.0f} candidates/s"]
    if tally.tokens and sum(tally.tokens.values()):
        parts.append(f"{tokens_per_s:,.0f} tokens/s")
    parts.append(f"{tally.dead_letter_count:,} dead letters")
    return ", ".join(parts)


class Silent:
    """Says nothing: for use from Python."""

    def say(self, text: str) -> None:
        """Ignores it."""

    def begin(self, done_share: float) -> None:
        """Ignores it."""

    def update(self, tally: Tally, done_share: float) -> None:
        """Ignores it."""

    def end(self) -> None:
        """Ignores it."""

    def done(self, tally: Tally, candidates_per_s: float, tokens_per_s: float) -> None:
        """Ignores it."""


class LogLines:
    """A line every few seconds, for job logs."""

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s = every_s
        self._rates: Rates | None = None
        self._started = self._begun_at = self._last = 0.0

    def say(self, text: str) -> None:
        """Prints the line at once."""
        say(text, sys.stderr)

    def begin(self, done_share: float) -> None:
        """Says that the scorer is being started, which can take a while."""
        self.say(f"{done_share:6.1%} starting the scorer")

    def update(self, tally: Tally, done_share: float) -> None:
        """Prints a line if the last one is long enough ago."""
        now = time.monotonic()
        if self._rates is None:
            # The first commit ends start-up: rates and the time that is left count from here.
            self._rates, self._started, self._begun_at, self._last = Rates(tally), now, done_share, now
            # An empty file has a split, too.
            if tally.rows:
                self.say(f"{done_share:6.1%} first split committed")
            return
        if now - self._last < self._every_s:
            return
        self._last = now
        share = max(done_share - self._begun_at, 1e-9)
        left_s = (now - self._started) * (1 - done_share) / share
        self.say(f"{done_share:6.1%} {summary(tally, *self._rates.of(tally))}, {_clock(left_s)} left")

    def end(self) -> None:
        """Nothing to close."""

    def done(self, tally: Tally, candidates_per_s: float, tokens_per_s: float) -> None:
        """Prints the figures of the result."""
        self.say(f"{1:6.1%} {summary(tally, candidates_per_s, tokens_per_s)}")


class Bar:
    """A progress bar in a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._console = console
        self._task = self._progress.add_task("", total=1.0, figures="starting the scorer")
        self._rates: Rates | None = None

    def say(self, text: str) -> None:
        """Prints the line above the bar."""
        self._console.print(printable(text), highlight=False, markup=False, emoji=False, soft_wrap=True)

    def begin(self, done_share: float) -> None:
        """Shows the bar."""
        self._progress.update(self._task, completed=done_share)
        self._progress.start()

    def update(self, tally: Tally, done_share: float) -> None:
        """Moves the bar."""
        if self._rates is None:
            self._rates = Rates(tally)
        self._progress.update(self._task, completed=done_share, figures=summary(tally, *self._rates.of(tally)))

    def end(self) -> None:
        """Removes the bar."""
        self._progress.stop()

    def done(self, tally: Tally, candidates_per_s: float, tokens_per_s: float) -> None:
        """Prints nothing: the bar is gone, and what follows it is the result."""


def reporter() -> Reporter:
    """Returns a bar if standard error is a terminal, else log lines."""
    console = Console(stderr=True)
    return Bar(console) if console.is_terminal else LogLines()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
