"""How long each stage worked, and what share of the time it waited for input."""

from collections import defaultdict
from collections.abc import Mapping

TASKS = ("read", "encode", "write")
"""Stages that run as tasks. A task starts when its input is there, so these have no workers that could wait."""


def stage_times(
    seconds: Mapping[str, float], waited: Mapping[str, float], scoring_s: float
) -> dict[str, dict[str, float]]:
    """Returns for each stage what it worked and what share of the time it waited.

    Args:
        seconds: Seconds of work by step, from commit records: ``read``, ``parse``, ``encode:NAME``, ``score:NAME``, ….
        waited: Seconds that actors waited for splits, by ``score:NAME``.
        scoring_s: Seconds that all of it took, start of the models included.

    Returns:
        By stage (``read``, ``encode``, ``score`` or ``score NAME``, ``verify`` or ``verify NAME``, ``write``):
        ``busy_s``, summed over processes, and ``waited``, a share between 0 and 1. For a scorer that is the share of
        its actors' time, from when each was ready to the end of its last split; for a stage of tasks the share of
        ``scoring_s`` in which one worker would have had nothing to do, 0 where one would not have been enough.
    """
    busy: dict[str, float] = defaultdict(float)
    for step, spent in seconds.items():
        busy[_stage(step)] += spent
    times: dict[str, dict[str, float]] = {}
    for stage, spent in busy.items():
        times[stage] = {"busy_s": round(spent, 3)}
        if stage in TASKS:
            times[stage]["waited"] = round(max(0.0, 1 - spent / max(scoring_s, 1e-9)), 4)
    for step, idle in waited.items():
        # While a scorer verifies, its actor does not wait.
        alive = idle + seconds.get(step, 0.0) + seconds.get(step.replace("score:", "verify:", 1), 0.0)
        times[_stage(step)]["waited"] = round(idle / max(alive, 1e-9), 4)
    order = ("read", "encode", "score", "verify", "write")
    return dict(sorted(times.items(), key=lambda item: order.index(item[0].split(" ")[0])))


def _stage(step: str) -> str:
    """The stage that a step of a commit record belongs to."""
    kind, _, scorer = step.partition(":")
    if kind in ("score", "verify"):
        return f"{kind} {scorer}".rstrip()
    return kind if kind in TASKS else "encode"
