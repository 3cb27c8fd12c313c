"""The manifest: what a finished run read, did and left behind."""

from typing import Any

import msgspec
from pydantic import ValidationError

from polar_ray.data.manifests import decode_whole
from polar_ray.data.scores import refuse_other
from polar_ray.errors import ConservationError, NotFinished, OutputError
from polar_ray.recipe.run import Limits
from polar_ray.running.folder import RunFolder
from polar_ray.running.tally import Tally, beyond, errors_in


class Origin(msgspec.Struct, frozen=True):
    """The run whose score table was taken over.

    Attributes:
        path: Where it was.
        manifest_sha256: Of its manifest's bytes.
        name: Of its recipe.
        scorers: Whose scores it had, by their names in the new table.
    """

    path: str
    manifest_sha256: str
    name: str
    scorers: list[str]


class Source(msgspec.Struct, frozen=True):
    """Rows of a score table that were scored in the same generation.

    Attributes:
        generation: Its number; 1 is the run itself.
        groups: How many.
        fingerprints: By scorer, what could change their scores.
    """

    generation: int
    groups: int
    fingerprints: dict[str, dict[str, str]]


class Generation(msgspec.Struct, frozen=True):
    """What a retry says of itself in its manifest.

    Attributes:
        number: 2 for the first retry.
        parent: The folder of the generation before.
        parent_sha256: Of the parent's manifest.
        sources: Which rows come from which generation.
    """

    number: int
    parent: str
    parent_sha256: str
    sources: list[Source]


class Manifest(msgspec.Struct, frozen=True):
    """The record of a finished run, written last as ``manifest.json``.

    Attributes:
        recipe: The resolved recipe, without credentials.
        inputs: Each input file with its size, and its etag or modification time.
        fingerprints: By scorer, all that can change a score.
        counts: Rows read, rows in groups, groups, candidates, splits, tokens, statuses, dead letters, drops.
        conservation: The sum that must hold, and that it holds.
        duration_s: Seconds that this attempt took, start of Ray and models included.
        scoring_s: Seconds from the first stage's start to the last commit of this attempt.
        throughput: Candidates and tokens per second of this attempt, over ``scoring_s``.
        resumed_splits: Splits that an earlier attempt had committed.
        stage_seconds: Seconds of work in each stage, summed over processes.
        parent: The run whose scores were taken over, where scorers were added to a score table.
        stages: For each stage, its seconds of work in this attempt and the share of the time that it waited; see
            ``stage_times``.
        startup_s: Seconds of ``scoring_s`` until the first scorer was ready: workers started, model loaded and checked.
        verification: By scorer, what came of scoring a sample again; see ``verification_of``.
        generation: Of a retry: its number, and which rows come from which generation.
    """

    recipe: dict[str, Any]
    inputs: list[dict[str, Any]]
    fingerprints: dict[str, dict[str, str]]
    counts: dict[str, Any]
    conservation: dict[str, Any]
    started: str
    finished: str
    duration_s: float
    scoring_s: float
    throughput: dict[str, float]
    resumed_splits: int
    stage_seconds: dict[str, float]
    versions: dict[str, str]
    parent: Origin | None = None
    stages: dict[str, dict[str, float]] = {}
    startup_s: float = 0.0
    verification: dict[str, dict[str, Any]] = {}
    generation: Generation | None = None


def read_manifest(folder: RunFolder) -> Manifest:
    """Returns the manifest of the run in the folder.

    Raises:
        NotARun: There is no run in the folder.
        NotFinished: The run has not finished.
        OutputError: The manifest is damaged.
    """
    refuse_other(folder.storage)
    if not folder.is_finished():
        raise NotFinished(f"the run in {folder.path} has not finished; run its recipe again to finish it")
    remedy = "restore it from a copy, or delete it and run the recipe again, which keeps what is scored"
    return decode_whole(folder.storage.read_bytes(folder.manifest), folder.manifest, Manifest, remedy)


def counts_of(tally: Tally) -> dict[str, Any]:
    """Returns the counts of a manifest."""
    return {
        "rows": tally.rows,
        "rows_in_groups": tally.rows_in_groups,
        "groups": tally.groups,
        "candidates": tally.candidates,
        "splits": tally.splits,
        "tokens": dict(tally.tokens),
        # Unary plus leaves out a status of which the removal of duplicates left nothing.
        "statuses": {name: dict(sorted((+counts).items())) for name, counts in tally.statuses.items()},
        "dead_letters": dict(sorted(tally.dead_letters.items())),
        "drops": dict(sorted(tally.drops.items())),
        "score_table_bytes": tally.part_bytes,
    }


def error_line(manifest: Manifest, limits: Limits | None = None) -> str | None:
    """Returns what a person is told where more candidates have errors than the limits allow.

    Args:
        manifest: Of a finished run.
        limits: Those that hold now; by default those that the run was made with.
    """
    limits = limits if limits is not None else _limits(manifest)
    candidates = manifest.counts["candidates"]
    for name, statuses in manifest.counts["statuses"].items():
        found = errors_in(statuses)
        if beyond(found, candidates, limits):
            whose = f" from {name}" if name else ""
            return (
                f"TOO MANY ERRORS. {found:,} of {candidates:,} candidates have errors{whose}, more than "
                f"limits.max_errors={limits.max_errors:g} allows; the score table is whole all the same. Correct the "
                "cause; then polar-ray retry scores them again"
            )
    return None


def _limits(manifest: Manifest) -> Limits:
    try:
        return Limits.model_validate(manifest.recipe.get("limits", {}))
    except ValidationError as error:
        wrong = error.errors()[0]
        raise OutputError(
            f"recipe.limits.{'.'.join(map(str, wrong['loc']))} in the manifest of the run is no limit "
            f"({wrong['msg']}); restore the manifest from a copy"
        ) from error


def conservation_of(tally: Tally) -> dict[str, Any]:
    """Returns the conservation of a run: rows read = rows in groups + dead letters + declared drops.

    Raises:
        ConservationError: It does not hold; the run must not count as finished.
    """
    dead_letters, drops = tally.dead_letter_count, sum(tally.drops.values())
    record = {
        "rows_read": tally.rows,
        "rows_in_groups": tally.rows_in_groups,
        "dead_letters": dead_letters,
        "drops": drops,
        "holds": tally.rows == tally.rows_in_groups + dead_letters + drops,
    }
    if not record["holds"]:
        raise ConservationError(
            f"rows were lost or doubled: read {tally.rows}, in groups {tally.rows_in_groups}, dead letters "
            f"{dead_letters}, drops {drops}; the run is not marked as finished. Please report this"
        )
    return record
