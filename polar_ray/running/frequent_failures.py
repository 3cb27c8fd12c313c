"""What has no reward in a finished run: the most frequent messages, each with a prompt to look at."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.data.generations import run_of
from polar_ray.data.parts import decoding
from polar_ray.data.scores import parts_of
from polar_ray.data.status import FAILED
from polar_ray.deriving.columns import ScoreColumns
from polar_ray.errors import OutputError
from polar_ray.running.folder import RunFolder
from polar_ray.running.manifest import read_manifest

PARTS = 20
"""Parts of the score table that are looked at, those with the most failures first."""
MESSAGES = 3
"""Messages of a scorer that are told."""


@dataclass(frozen=True)
class Failure:
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


def failing_run(table: RunFolder) -> str | None:
    """Returns a run whose scores the table of a curation's version lists and of which candidates failed.

    The latest of those whose manifests tell so; None where the runs are not there any more.
    """
    parts = [info.path.rpartition("/scores/")[0] for info in parts_of(table.storage)]
    for folder in sorted(set(parts), reverse=True)[:PARTS]:
        try:
            manifest = read_manifest(RunFolder(folder, table.options, table.wait_s))
        except OutputError:
            continue
        if any(counts.keys() & FAILED for counts in manifest.counts["statuses"].values()):
            return run_of(folder, table.options, table.wait_s)[0]
    return None


def _rows(file: pa.NativeFile, scorers: list[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns the scorers that say why, and what they say."""
    part = pq.ParquetFile(file)
    here = [scorer for scorer in scorers if ScoreColumns(scorer)("error") in part.schema_arrow.names]
    names = [ScoreColumns(scorer)(name) for scorer in here for name in ("status", "error")]
    return here, part.read(["prompt_id", *names]).to_pylist()


def frequent_failures(folder: RunFolder, scorers: list[str]) -> list[Failure]:
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
        with decoding(folder.part(split)):
            here, rows = folder.storage.read_with(folder.part(split), partial(_rows, scorers=scorers))
        for scorer in here:
            column = ScoreColumns(scorer)
            for row in rows:
                for status, message in zip(row[column("status")], row[column("error")], strict=True):
                    if status in FAILED:
                        found[scorer][status, message] += 1
                        prompts.setdefault((scorer, status, message), row["prompt_id"])
    return [
        Failure(scorer, status, message, count, prompts[scorer, status, message])
        for scorer, counts in found.items()
        for (status, message), count in counts.most_common(MESSAGES)
    ]
