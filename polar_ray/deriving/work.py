"""What one process does with one unit of the score table."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pyarrow as pa

from polar_ray.data.arrays import flat
from polar_ray.deriving.block import Block, block_of
from polar_ray.deriving.combine import combined
from polar_ray.deriving.curve import CurveSums
from polar_ray.deriving.exports.rows import PairRows, PickRows
from polar_ray.deriving.exports.shape import shape_of
from polar_ray.deriving.exports.shaping import shape_pairs, shape_picks
from polar_ray.deriving.joining import Missing, Source, candidate_ids_of, join_unit
from polar_ray.deriving.ledger import Ledger
from polar_ray.deriving.pairs import make_pairs
from polar_ray.deriving.penalty import penalised
from polar_ray.deriving.picks import best_of_n, label
from polar_ray.deriving.quantile import lower_counts, upper_counts
from polar_ray.deriving.side import is_validation
from polar_ray.deriving.statistics import Statistics, Sums, sums_of
from polar_ray.deriving.tables import Table
from polar_ray.deriving.texts import Texts
from polar_ray.deriving.units import Unit, UnitReader, kept
from polar_ray.deriving.wanted import Wanted, candidate_path
from polar_ray.recipe.derive import DeriveRecipe

TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True)
class Work:
    """What is to be done with every unit. Small and picklable.

    Attributes:
        table: The score table that the candidates come from.
        recipe: What is derived.
        wanted: The columns of scores that it needs.
        joined: Where those of other score tables are.
        statistics: Of the rewards of the whole table, by scorer, once they are known.
        lowest: The reward at ``best_of_n.min_quantile``, once it is known.
    """

    table: Table
    recipe: DeriveRecipe
    wanted: Wanted
    joined: tuple[Source, ...] = ()
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    lowest: float | None = None


@dataclass(frozen=True)
class Derived:
    """What came of one unit.

    Attributes:
        schema: Of the rows, whatever they are encoded as.
        rows: The rows of ``train`` and ``validation``; for JSON lines, one binary column with encoded lines.
        ledger: The prompts that gave nothing, with ``LEDGER_SCHEMA``.
        prompts: Prompts read.
        candidates: Candidates read.
        prompts_with: Prompts that gave rows.
        reasons: Prompts that gave nothing, by reason.
        removed_candidates: Candidates left out, by condition.
        removed_pairs: Proposed pairs dropped, by filter.
        curve: Sums for the N-curve.
        missing: What joined tables lack.
    """

    schema: pa.Schema
    rows: dict[str, pa.Table]
    ledger: pa.Table
    prompts: int
    candidates: int
    prompts_with: int
    reasons: Counter[str]
    removed_candidates: Counter[str]
    removed_pairs: Counter[str] = field(default_factory=Counter)
    curve: CurveSums | None = None
    missing: Mapping[str, Missing] = field(default_factory=dict)


def derive_unit(work: Work, unit: Unit) -> Derived:
    """Derives from one unit."""
    recipe = work.recipe
    with UnitReader(kept(work.table.storage), unit) as reader:
        texts = Texts(reader.read)
        block, missing = _read(work, unit, reader)
        block = _rewarded(work, block, texts)
        shape = shape_of(recipe.export, recipe.task)
        fits = shape.fits if shape else None
        if recipe.pairs:
            pairs = make_pairs(block, recipe.candidates, recipe.pairs, texts, seed=recipe.seed, fits=fits)
            shaped = shape_pairs(PairRows(block, pairs, texts), recipe.export, provenance=recipe.files.provenance)
            rows = _split(shaped, pairs.group, texts, recipe)
            made = _derived(block, shaped.schema, rows, pairs.group, pairs.ledger, pairs.removed_candidates, missing)
            return replace(made, removed_pairs=pairs.removed_pairs)
        if recipe.best_of_n:
            picks = best_of_n(block, recipe.candidates, recipe.best_of_n, texts, lowest=work.lowest, fits=fits)
        else:
            assert recipe.labels
            picks = label(block, recipe.candidates, recipe.labels, texts, fits=fits)
        shaped = shape_picks(PickRows(block, picks, texts), recipe.export, provenance=recipe.files.provenance)
        rows = _split(shaped, picks.group, texts, recipe)
        made = _derived(block, shaped.schema, rows, picks.group, picks.ledger, picks.removed_candidates, missing)
        return replace(made, curve=picks.curve)


def _read(work: Work, unit: Unit, reader: UnitReader) -> tuple[Block, dict[str, Missing]]:
    """Reads the wanted columns of all tables, and says what joined ones lack."""
    names, elsewhere = work.table.columns, {name for source in work.joined for name in source.columns}
    here = [name for name in work.wanted.columns if name not in elsewhere]
    paths = [names.get(name, name) for name in here]
    if not work.joined:
        return block_of(_renamed(reader.read(paths), names), work.wanted), {}
    ids = candidate_path("candidate_id")
    table = _renamed(reader.read(list(dict.fromkeys([*paths, ids]))), names)
    joined = join_unit(work.joined, unit, flat(table.column("prompt_id")), candidate_ids_of(table))
    for name in joined.table.column_names:
        table = table.append_column(name, joined.table.column(name))
    return block_of(table, work.wanted, joined.unjoined), joined.missing


def _renamed(table: pa.Table, names: Mapping[str, str]) -> pa.Table:
    shown = {column: name for name, column in names.items()}
    return table.rename_columns([shown.get(name, name) for name in table.column_names])


def _rewarded(work: Work, block: Block, texts: Texts) -> Block:
    """Returns the block with the rewards that the recipe asks for."""
    reward = work.recipe.reward
    return penalised(combined(block, reward.combine, work.statistics), reward.length_penalty, texts)


def reward_sums(work: Work, unit: Unit) -> dict[str, Sums]:
    """The pass for statistics of the whole table: sums of the rewards of each scorer that is combined."""
    with UnitReader(kept(work.table.storage), unit) as reader:
        block, _ = _read(work, unit, reader)
    return {name: sums_of(rewards[~np.isnan(rewards)]) for name, rewards in block.parts.items()}


def count_upper(work: Work, unit: Unit) -> np.ndarray:
    """First pass for a quantile; see ``quantile``."""
    return upper_counts(_usable_rewards(work, unit))


def count_lower(work: Work, upper: int, unit: Unit) -> np.ndarray:
    """Second pass for a quantile."""
    return lower_counts(_usable_rewards(work, unit), upper)


def _usable_rewards(work: Work, unit: Unit) -> np.ndarray:
    """Rewards of the candidates that pass the conditions on numbers; those on texts do not count here."""
    candidates = work.recipe.candidates
    with UnitReader(kept(work.table.storage), unit) as reader:
        block = _rewarded(work, _read(work, unit, reader)[0], Texts(reader.read))
    usable = ~np.isnan(block.reward)
    if candidates.truncated == "drop":
        usable &= ~block.truncated
    if candidates.max_uncertainty is not None and block.uncertainty is not None:
        usable &= block.uncertainty <= candidates.max_uncertainty
    if candidates.max_disagreement is not None and block.disagreement is not None:
        usable &= block.disagreement <= candidates.max_disagreement
    if block.unjoined is not None:
        usable &= ~block.unjoined
    return np.asarray(block.reward[usable])


def _derived(
    block: Block,
    schema: pa.Schema,
    rows: dict[str, pa.Table],
    groups: np.ndarray,
    ledger: Ledger,
    removed_candidates: Counter[str],
    missing: Mapping[str, Missing],
) -> Derived:
    return Derived(
        schema=schema,
        rows=rows,
        ledger=ledger.table(block.prompt_ids, block.sizes),
        prompts=len(block),
        candidates=len(block.reward),
        prompts_with=len(np.unique(groups)),
        reasons=ledger.counts(),
        removed_candidates=removed_candidates,
        missing=missing,
    )


def _split(shaped: pa.Table, groups: np.ndarray, texts: Texts, recipe: DeriveRecipe) -> dict[str, pa.Table]:
    """Parts the rows by their prompts' sides, and encodes them where the format is text."""
    if recipe.files.format == "jsonl":
        shaped = _lines(shaped)
    if recipe.files.validation == 0:
        return {TRAIN: shaped}
    validation = is_validation(texts.prompt, recipe.files.validation)[groups]
    return {TRAIN: shaped.filter(pa.array(~validation)), VALIDATION: shaped.filter(pa.array(validation))}


def _lines(table: pa.Table) -> pa.Table:
    encode = msgspec.json.Encoder().encode
    return pa.table({"line": pa.array([encode(row) + b"\n" for row in table.to_pylist()], pa.binary())})
