"""Measures the throughput of a run."""

import time

from polar_ray.running.tally import Tally
from polar_ray.running.waiting import stage_times


class ScoringClock:
    """Time from the first pass's start to the latest commit, and what was scored in it."""

    def __init__(self, tally: Tally) -> None:
        self._before = (tally.candidates, sum(tally.tokens.values()))
        self._after = self._before
        self._seconds_before, self._waited_before = tally.seconds.copy(), tally.waited.copy()
        self._started: float | None = None
        self.seconds = 0.0
        self.startup = 0.0

    def start(self) -> None:
        """Starts the clock, once."""
        if self._started is None:
            self._started, self._started_at = time.monotonic(), time.time()

    def ready(self, at: float | None) -> None:
        """Is told when (Unix time) the first actor of a pass was ready to score; the first pass' is kept."""
        if at is not None and not self.startup:
            self.startup = max(0.0, at - self._started_at)

    def tick(self, tally: Tally) -> None:
        """Notes a commit."""
        assert self._started is not None
        self.seconds = time.monotonic() - self._started
        self._after = (tally.candidates, sum(tally.tokens.values()))

    def stages(self, tally: Tally) -> dict[str, dict[str, float]]:
        """Returns what each stage worked and waited in this attempt."""
        return stage_times(tally.seconds - self._seconds_before, tally.waited - self._waited_before, self.seconds)

    def throughput(self) -> dict[str, float]:
        """Returns candidates and tokens per second."""
        seconds = max(self.seconds, 1e-9)
        candidates, tokens = (after - before for before, after in zip(self._before, self._after, strict=True))
        return {"candidates_per_s": round(candidates / seconds, 1), "tokens_per_s": round(tokens / seconds, 1)}
