"""Deriving a dataset from a score table: streaming, on CPUs, without a model or the run's input."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from typing import Any

import msgspec
import numpy as np

from polar_ray.data.generations import newest
from polar_ray.data.scores import open_scores, parts_of
from polar_ray.data.storage import Storage
from polar_ray.deriving.card import card
from polar_ray.deriving.curve import CurveSums
from polar_ray.deriving.derived_folder import DerivedFolder, DerivedManifest, Parent
from polar_ray.deriving.exports.llama_factory import dataset_info
from polar_ray.deriving.pool import in_order
from polar_ray.deriving.quantile import find_bin, value_in_bin
from polar_ray.deriving.shards import ShardWriter
from polar_ray.deriving.units import Unit, plan_units
from polar_ray.deriving.wanted import wanted_of
from polar_ray.deriving.work import TRAIN, VALIDATION, Derived, Work, count_lower, count_upper, derive_unit
from polar_ray.errors import ConservationError
from polar_ray.recipe.derive import DeriveRecipe

LEDGER_ROWS = 1_000_000
Progress = Callable[[int, int], None]
"""Is told how many units are done, of how many."""


def derive(recipe: DeriveRecipe, *, fresh: bool = False, progress: Progress | None = None) -> DerivedManifest:
    """Derives the recipe's dataset into its output folder and returns the manifest.

    The same score table, recipe and seed give the same bytes in every file, on any number of processes. Memory does not
    grow with the table. A folder that holds this very dataset is left as it is.

    Args:
        recipe: What to derive, from which run, into which folder.
        fresh: Delete the derived dataset in the output folder first.
        progress: Is told how it goes.

    Raises:
        NotARun: There is no run at ``run.path``, or the output folder holds something else.
        NotFinished: The run has not finished.
        RecipeChanged: The output folder holds another derived dataset.
        RecipeError: The recipe names a scorer or column that the table does not have.
        ConservationError: Prompts were lost or doubled.

    Example:
        >>> manifest = derive(DeriveRecipe.load("pipelines/pairs.yaml"))
        >>> manifest.counts["rows"]
        39
    """
    dataset = open_scores(recipe.run.path, storage_options=recipe.run.storage_options)
    source = Storage.of(newest(recipe.run.path, recipe.run.storage_options)[0], recipe.run.storage_options)
    parent = _parent(source)
    work = Work(source, recipe, wanted_of(recipe, dataset.schema))
    folder = DerivedFolder(Storage.of(recipe.output.path).url, recipe.output.storage_options)
    versions = {name: version(name) for name in ("polar-ray", "pyarrow", "numpy", "rapidfuzz")}
    identity = {"recipe": recipe.policy(), "parent": parent.manifest_sha256, "versions": versions}
    if (finished := folder.establish(identity, fresh=fresh)) is not None:
        return finished
    units = plan_units(parts_of(source))
    processes = min(recipe.compute.processes or os.cpu_count() or 1, max(1, len(units)))
    if recipe.best_of_n and recipe.best_of_n.min_quantile is not None:
        work = Work(source, recipe, work.wanted, _quantile(work, units, recipe.best_of_n.min_quantile, processes))
    total = _Total()
    files = recipe.files
    with ExitStack() as stack:

        def writer(name: str, format: Any, rows: int) -> ShardWriter:
            return stack.enter_context(ShardWriter(folder.storage, folder.path, name, format, rows))

        writers = {side: writer(f"data/{side}", files.format, files.shard_rows) for side in (TRAIN, VALIDATION)}
        ledger = writer("ledger", "parquet", LEDGER_ROWS)
        for done, derived in enumerate(in_order(partial(derive_unit, work), units, processes), 1):
            for side, rows in derived.rows.items():
                writers[side].write(rows)
                total.rows[side] += rows.num_rows
            ledger.write(derived.ledger)
            total.add(derived)
            if progress is not None:
                progress(done, len(units))
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
        versions=versions,
    )
    storage = folder.storage
    storage.write_atomic(folder.join("README.md"), card(recipe, manifest).encode())
    if recipe.export.kind == "llama_factory":
        sides = [side for side in (TRAIN, VALIDATION) if total.rows[side]]
        info = msgspec.json.format(msgspec.json.encode(dataset_info(recipe.name, recipe.task, sides)))
        storage.write_atomic(folder.join("dataset_info.json"), info)
    storage.write_atomic(folder.join("manifest.json"), msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def _parent(source: Storage) -> Parent:
    data = source.read_bytes(source.join("manifest.json"))
    manifest = msgspec.json.decode(data)
    return Parent(
        path=source.url,
        manifest_sha256=hashlib.sha256(data).hexdigest(),
        name=manifest["recipe"]["name"],
        groups=manifest["counts"]["groups"],
        candidates=manifest["counts"]["candidates"],
        fingerprints=manifest["fingerprints"],
    )


def _quantile(work: Work, units: list[Unit], quantile: float, processes: int) -> float | None:
    zero = np.zeros(1, np.int64)
    bin_ = find_bin(sum(in_order(partial(count_upper, work), units, processes), zero), quantile)
    if bin_ is None:
        return None
    return value_in_bin(bin_, sum(in_order(partial(count_lower, work, bin_.upper), units, processes), zero))


class _Total:
    """The counts of all units so far."""

    def __init__(self) -> None:
        self.rows = Counter({TRAIN: 0, VALIDATION: 0})
        self.prompts = self.candidates = self.prompts_with = 0
        self.reasons: Counter[str] = Counter()
        self.removed_candidates: Counter[str] = Counter()
        self.removed_pairs: Counter[str] = Counter()
        self.curve: CurveSums | None = None

    def add(self, derived: Derived) -> None:
        """Adds what came of a unit, except for its rows. Units come in order, so sums of floats are always the same."""
        self.prompts += derived.prompts
        self.candidates += derived.candidates
        self.prompts_with += derived.prompts_with
        self.reasons += derived.reasons
        self.removed_candidates += derived.removed_candidates
        self.removed_pairs += derived.removed_pairs
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
