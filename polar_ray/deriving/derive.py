"""Deriving a dataset from a score table: streaming, on CPUs, without a model or the run's input."""

import hashlib
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from polar_ray.data.lease import Lease
from polar_ray.data.manifests import decode_manifest
from polar_ray.data.one_writer import LEASE_S, one_writer
from polar_ray.data.storage import Storage
from polar_ray.deriving.card import card
from polar_ray.deriving.curve import CurveSums
from polar_ray.deriving.derived_folder import RECORDS, WORK, DerivedFolder, DerivedManifest, Parent
from polar_ray.deriving.exports.llama_factory import dataset_info
from polar_ray.deriving.joining import Missing, join_sources
from polar_ray.deriving.pool import Processes, Workers, usable_cpus
from polar_ray.deriving.quantile import find_bin, value_in_bin
from polar_ray.deriving.shards import ShardWriter
from polar_ray.deriving.statistics import Statistics, Sums
from polar_ray.deriving.tables import Table, Tables, open_tables
from polar_ray.deriving.units import Unit, plan_units
from polar_ray.deriving.wanted import Wanted, wanted_of
from polar_ray.deriving.work import TRAIN, VALIDATION, Derived, Work, count_lower, count_upper, derive_unit, reward_sums
from polar_ray.errors import ConservationError, NotJoined
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.scorers.fingerprint import hashed

LEDGER_ROWS = 1_000_000
Progress = Callable[[int, int], None]
"""Is told how many units are done, of how many."""


def derive(
    recipe: DeriveRecipe,
    *,
    fresh: bool = False,
    progress: Progress | None = None,
    workers: Workers | None = None,
    lease_s: float = LEASE_S,
) -> DerivedManifest:
    """Derives the recipe's dataset into its output folder and returns the manifest.

    The same score table, recipe and seed give the same bytes in every file, on any number of processes. Memory does not
    grow with the table. A folder that holds this very dataset is left as it is.

    Args:
        recipe: What to derive, from which run, into which folder.
        fresh: Delete the derived dataset in the output folder first.
        progress: Is told how it goes.
        workers: What works on the units; processes of this machine by default.
        lease_s: Seconds after which whoever derived into the folder and no longer says so counts as dead.

    Raises:
        NotARun: There is no run at ``run.path``, or the output folder holds something else.
        OutputBusy: Somebody else derives into the output folder.
        NotFinished: The run has not finished.
        RecipeChanged: The output folder holds another derived dataset.
        RecipeError: The recipe names a scorer or column that the table does not have.
        NotJoined: A joined run lacks candidates, and ``run.missing`` is ``error``.
        ConservationError: Prompts were lost or doubled.

    Example:
        >>> manifest = derive(DeriveRecipe.load("pipelines/pairs.yaml"))
        >>> manifest.counts["rows"]
        39
    """
    wait_s = recipe.limits.storage_wait_s
    tables = open_tables(recipe.run, wait_s)
    wanted = wanted_of(recipe, tables.schema)
    parent = _parent(tables.first)
    joined = {table.name: _parent(table) for table in tables.joined}
    folder = DerivedFolder.of(recipe.output, wait_s)
    versions = {name: version(name) for name in ("polar-ray", "pyarrow", "numpy", "rapidfuzz")}
    identity = {"recipe": recipe.policy(), "parent": parent.manifest_sha256, "versions": versions}
    if joined:
        identity["joined"] = {name: each.manifest_sha256 for name, each in joined.items()}
    if not fresh and folder.is_finished():
        # Nothing is written, so it does not matter who else is there.
        return folder.read_same(identity)
    with one_writer(folder.storage, RECORDS, WORK, lease_s) as lease:
        folder = folder.guarded(lease.check_lately)
        if (finished := folder.establish(identity, fresh=fresh)) is not None:
            return finished
        return _derive(recipe, _Origin(folder, tables, wanted, parent, joined, versions), lease, progress, workers)


@dataclass(frozen=True)
class _Origin:
    """What a dataset is derived from, and the folder that was made ready for it."""

    folder: DerivedFolder
    tables: Tables
    wanted: Wanted
    parent: Parent
    joined: dict[str, Parent]
    versions: dict[str, str]


def _derive(
    recipe: DeriveRecipe, origin: _Origin, lease: Lease, progress: Progress | None, workers: Workers | None
) -> DerivedManifest:
    """Derives into a folder that nobody else writes into."""
    folder, tables, wanted, parent = origin.folder, origin.tables, origin.wanted, origin.parent
    units = plan_units(tables.first.parts)
    if workers is None:
        workers = Processes(min(recipe.compute.processes or usable_cpus(), max(1, len(units))))
    # Of this writer alone: the processes of one that was overtaken may still be sorting rows of other tables.
    buckets = Storage.of(
        folder.join("_derive", "joined", f"{lease.token:012d}"), recipe.output.storage_options, folder.wait_s
    )
    work = Work(tables.first, recipe, wanted, join_sources(tables, wanted.columns, units, workers, buckets))
    if recipe.reward.combine and recipe.reward.combine.needs_table:
        work = replace(work, statistics=_statistics(work, units, workers))
    if recipe.best_of_n and recipe.best_of_n.min_quantile is not None:
        work = replace(work, lowest=_quantile(work, units, recipe.best_of_n.min_quantile, workers))
    total = _Total()
    files = recipe.files
    with ExitStack() as stack:

        def writer(name: str, format: Any, rows: int) -> ShardWriter:
            return stack.enter_context(ShardWriter(folder.storage, folder.path, name, format, rows))

        writers = {side: writer(f"data/{side}", files.format, files.shard_rows) for side in (TRAIN, VALIDATION)}
        ledger = writer("ledger", "parquet", LEDGER_ROWS)
        schema: pa.Schema | None = None
        empty: pa.Table | None = None
        for done, derived in enumerate(workers.over(partial(derive_unit, work), units), 1):
            total.add(derived)
            if total.missing and recipe.run.missing == "error":
                # Nothing more is written; what is lacking is counted to the end.
                continue
            for side, rows in derived.rows.items():
                writers[side].write(rows)
                schema, empty = derived.schema, rows.slice(0, 0)
                total.rows[side] += rows.num_rows
            ledger.write(derived.ledger)
            if lease.taken_over:
                lease.check()
            if progress is not None:
                progress(done, len(units))
        if empty is not None and not sum(total.rows.values()):
            writers[TRAIN].write_empty(empty)
        if total.missing and recipe.run.missing == "error":
            folder.delete_joined()
            raise _not_joined(recipe, total.missing)
    manifest = DerivedManifest(
        task=recipe.task,
        recipe=recipe.policy(),
        parent=parent,
        counts=total.counts(),
        ledger=dict(sorted(total.reasons.items())),
        conservation=total.conservation(parent),
        removed_candidates=dict(sorted(total.removed_candidates.items())),
        removed_pairs=dict(sorted(total.removed_pairs.items())),
        lowest_reward=work.lowest,
        curve=total.curve.points() if total.curve is not None else [],
        files=[*writers[TRAIN].files, *writers[VALIDATION].files, *ledger.files],
        versions=origin.versions,
        joined=origin.joined,
        missing={
            name: {"prompts": lacks.prompts, "candidates": lacks.candidates} for name, lacks in total.missing.items()
        },
    )
    storage = folder.storage
    lease.check()
    folder.delete_joined()
    storage.write_atomic(folder.join("README.md"), card(recipe, manifest, schema).encode())
    if recipe.export.kind == "llama_factory":
        sides = [side for side in (TRAIN, VALIDATION) if total.rows[side]]
        info = msgspec.json.format(msgspec.json.encode(dataset_info(recipe.name, recipe.task, sides)))
        storage.write_atomic(folder.join("dataset_info.json"), info)
    storage.write_atomic(folder.join("manifest.json"), msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def _parent(table: Table) -> Parent:
    source = table.storage
    data = source.read_bytes(source.join("manifest.json"))
    manifest = decode_manifest(data, source.join("manifest.json"))
    return Parent(
        path=source.url,
        manifest_sha256=hashlib.sha256(data).hexdigest(),
        name=manifest["recipe"]["name"],
        groups=manifest["counts"]["groups"],
        candidates=manifest["counts"]["candidates"],
        fingerprints={name: hashed(parts) for name, parts in manifest["fingerprints"].items()},
    )


def _statistics(work: Work, units: list[Unit], workers: Workers) -> dict[str, Statistics]:
    total: dict[str, Sums] = {}
    for found in workers.over(partial(reward_sums, work), units):
        total = {name: total[name] + sums if name in total else sums for name, sums in found.items()}
    return {name: sums.statistics() for name, sums in total.items()}


def _quantile(work: Work, units: list[Unit], quantile: float, workers: Workers) -> float | None:
    zero = np.zeros(1, np.int64)
    bin_ = find_bin(sum(workers.over(partial(count_upper, work), units), zero), quantile)
    if bin_ is None:
        return None
    return value_in_bin(bin_, sum(workers.over(partial(count_lower, work, bin_.upper), units), zero))


def _not_joined(recipe: DeriveRecipe, missing: dict[str, Missing]) -> NotJoined:
    lacks = "; ".join(
        f"run.join.{name} ({recipe.run.join[name].path}) lacks {each.prompts:,} prompts and {each.candidates:,} "
        f"candidates, such as {', '.join(each.examples)}"
        for name, each in missing.items()
    )
    return NotJoined(
        f"{lacks}; no dataset is made. Score the same candidates there, or leave out what is lacking with "
        "run.missing=drop"
    )


class _Total:
    """The counts of all units so far."""

    def __init__(self) -> None:
        self.rows = Counter({TRAIN: 0, VALIDATION: 0})
        self.prompts = self.candidates = self.prompts_with = 0
        self.reasons: Counter[str] = Counter()
        self.removed_candidates: Counter[str] = Counter()
        self.removed_pairs: Counter[str] = Counter()
        self.curve: CurveSums | None = None
        self.missing: dict[str, Missing] = {}

    def add(self, derived: Derived) -> None:
        """Adds what came of a unit, except for its rows. Units come in order, so sums of floats are always the same."""
        self.prompts += derived.prompts
        self.candidates += derived.candidates
        self.prompts_with += derived.prompts_with
        self.reasons += derived.reasons
        self.removed_candidates += derived.removed_candidates
        self.removed_pairs += derived.removed_pairs
        for name, lacks in derived.missing.items():
            self.missing[name] = self.missing.get(name, Missing()) + lacks
        if derived.curve is not None:
            self.curve = derived.curve if self.curve is None else self.curve + derived.curve

    def counts(self) -> dict[str, int]:
        return {
            "prompts": self.prompts,
            "candidates": self.candidates,
            "prompts_with_rows": self.prompts_with,
            "rows": self.rows.total(),
            "train": self.rows[TRAIN],
            "validation": self.rows[VALIDATION],
        }

    def conservation(self, parent: Parent) -> dict[str, Any]:
        """Returns the sum that must hold: prompts = prompts with rows + prompts by reason."""
        without = self.reasons.total()
        if self.prompts != self.prompts_with + without or self.prompts != parent.groups:
            raise ConservationError(
                f"prompts were lost or doubled: the run's manifest has {parent.groups}, read {self.prompts}, with rows "
                f"{self.prompts_with}, with a reason {without}; the dataset is not marked as finished. If the score "
                "table is whole, please report this"
            )
        return {"prompts": self.prompts, "with_rows": self.prompts_with, "with_a_reason": without, "holds": True}
