"""What has no reward in a finished run: the most frequent messages, each with a prompt to look at."""

from collections import Counter
from dataclasses import dataclass

import pyarrow.parquet as pq

from polar_ray.data.status import Status
from polar_ray.deriving.columns import ScoreColumns
from polar_ray.running.folder import RunFolder

PARTS = 20
"""Parts of the score table that are looked at, those with the most failures first."""
MESSAGES = 3
"""Messages of a scorer that are told."""
FAILED = frozenset(status.value for status in (Status.ERROR, Status.CRASHED, Status.TIMEOUT, Status.NON_FINITE))
"""Statuses that another attempt may change, whatever their cause was."""


@dataclass(frozen=True)
class Unscored:
    """Candidates without a reward that have the same status and message.

    Attributes:
        scorer: Whose reward they lack; empty for a single scorer.
        status: Their status, one of ``FAILED``.
        message: What the scorer said, if it said anything.
        candidates: How many, in the parts that were looked at.
        prompt_id: One of their prompts.
    """

    scorer: str
    status: str
    message: str | None
    candidates: int
    prompt_id: str


def unscored(folder: RunFolder, scorers: list[str]) -> list[Unscored]:
    """Returns the most frequent failures in a run's score table, for each scorer."""
    failures = {
        split: sum(counts.get(status, 0) for counts in commit.statuses.values() for status in FAILED)
        for split, commit in folder.read_commits().items()
        if commit.part_bytes
    }
    worst = sorted((split for split, count in failures.items() if count), key=lambda split: (-failures[split], split))
    found: dict[str, Counter[tuple[str, str | None]]] = {scorer: Counter() for scorer in scorers}
    prompts: dict[tuple[str, str, str | None], str] = {}
    for split in sorted(worst[:PARTS]):
        with folder.storage.open_file(folder.part(split)) as file:
            part = pq.ParquetFile(file)
            here = [scorer for scorer in scorers if ScoreColumns(scorer)("error") in part.schema_arrow.names]
            names = [ScoreColumns(scorer)(name) for scorer in here for name in ("status", "error")]
            rows = part.read(["prompt_id", *names]).to_pylist()
        for scorer in here:
            column = ScoreColumns(scorer)
            for row in rows:
                for status, message in zip(row[column("status")], row[column("error")], strict=True):
                    if status in FAILED:
                        found[scorer][status, message] += 1
                        prompts.setdefault((scorer, status, message), row["prompt_id"])
    return [
        Unscored(scorer, status, message, count, prompts[scorer, status, message])
        for scorer, counts in found.items()
        for (status, message), count in counts.most_common(MESSAGES)
    ]
