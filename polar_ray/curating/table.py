"""The score table of a version: the parts of the current shards, wherever they lie, under one manifest.

VERSION/table/scores.json     which parts, by their paths from here
VERSION/table/manifest.json   as a run's, summed over the shards

It opens like a run's: ``read_scores``, ``show``, ``derive`` and ``report`` take it. Nothing is copied.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from polar_ray.curating.shards import SUMS, run_folder
from polar_ray.curating.state import Shard
from polar_ray.data.scores import LISTED, ListedPart, ListedParts
from polar_ray.data.storage import Storage
from polar_ray.data.versioned import encode
from polar_ray.errors import ConservationError
from polar_ray.recipe.curate import CurateRecipe
from polar_ray.recipe.secrets import masked_recipe
from polar_ray.running.manifest import Manifest, conservation_of, counts_of
from polar_ray.running.tally import Tally

SCHEMA = 1


def write_table(
    out: Storage,
    folder: str,
    recipe: CurateRecipe,
    shards: Mapping[str, Shard],
    runs: Sequence[Manifest],
    now: float,
) -> Manifest:
    """Writes the score table of some shards into a folder below ``out`` and returns its manifest.

    Args:
        out: The output folder of the curation.
        folder: The table's, from there.
        recipe: The curation's.
        shards: What is in the table, by path.
        runs: Manifests of the runs that scored them, the latest last. Their times are added up.
        now: Seconds since 1970.

    Raises:
        ConservationError: A part of a shard is missing or damaged.
    """
    up = "/".join([".."] * len(folder.split("/")))
    sizes: dict[tuple[str, int], dict[str, int]] = {}
    parts, tally = [], Tally()
    for path, shard in sorted(shards.items()):
        key = (shard.run, shard.generation)
        run = run_folder(out, *key)
        if key not in sizes:
            sizes[key] = {info.path.rsplit("/", 1)[-1]: info.size for info in out.list(run.join("scores"))}
        for split in range(shard.splits):
            name = f"part-{shard.file_index:05d}-{split:05d}.parquet"
            if name not in sizes[key]:
                raise ConservationError(
                    f"{name} of {path} is missing from {run.path}; its scores are lost. Remove the shard from "
                    f"{out.join('_curate', 'state')}, and the next tick scores it again"
                )
            place = run.join("scores", name).removeprefix(out.join(""))
            parts.append(ListedPart(f"{up}/{place}", sizes[key][name]))
        found = sum(part.size for part in parts[len(parts) - shard.splits :])
        if found != shard.counts["part_bytes"]:
            raise ConservationError(
                f"the parts of {path} in {run.join('scores')}, which begin with part-{shard.file_index:05d}, have "
                f"{found:,} bytes where {shard.counts['part_bytes']:,} were written; restore them from a copy, or "
                f"remove the shard from {out.join('_curate', 'state')}, and the next tick scores it again"
            )
        _add(tally, shard)
    moment = datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds")
    seconds = sum(run.scoring_s for run in runs)
    sums = {"candidates": tally.candidates, "tokens": sum(tally.tokens.values())}
    manifest = Manifest(
        recipe=masked_recipe(
            recipe.model_dump(mode="json", exclude={"input": {"storage_options"}, "output": {"storage_options"}})
        ),
        inputs=[{"path": path, **shard.identity} for path, shard in sorted(shards.items())],
        fingerprints=runs[-1].fingerprints,
        counts=counts_of(tally),
        conservation=conservation_of(tally),
        started=moment,
        finished=moment,
        duration_s=round(sum(run.duration_s for run in runs), 3),
        scoring_s=round(seconds, 3),
        throughput={f"{what}_per_s": round(count / max(seconds, 1e-9), 1) for what, count in sums.items()},
        resumed_splits=0,
        stage_seconds={},
        versions=runs[-1].versions,
    )
    out.write_atomic(out.join(folder, LISTED), encode(ListedParts(SCHEMA, parts)))
    out.write_atomic(out.join(folder, "manifest.json"), encode(manifest))
    return manifest


def _add(tally: Tally, shard: Shard) -> None:
    """Adds the sums of a shard, as if its commits were added."""
    counts: dict[str, Any] = shard.counts
    assert set(counts) == set(SUMS)
    tally.splits += shard.splits
    tally.rows += counts["rows"]
    tally.rows_in_groups += counts["rows_in_groups"]
    tally.groups += counts["groups"]
    tally.candidates += counts["candidates"]
    tally.part_bytes += counts["part_bytes"]
    tally.dead_letters.update(counts["dead_letters"])
    tally.drops.update(counts["drops"])
    tally.tokens.update(counts["tokens"])
    for name, statuses in counts["statuses"].items():
        tally.statuses.setdefault(name, type(tally.tokens)()).update(statuses)
