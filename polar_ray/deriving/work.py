"""What one process does with one unit of the score table."""

from collections import Counter
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa

from polar_ray.data.storage import Storage
from polar_ray.deriving.block import Block, block_of
from polar_ray.deriving.curve import CurveSums
from polar_ray.deriving.exports.rows import PairRows, PickRows
from polar_ray.deriving.exports.shape import shape_of
from polar_ray.deriving.exports.shaping import shape_pairs, shape_picks
from polar_ray.deriving.ledger import Ledger
from polar_ray.deriving.pairs import make_pairs
from polar_ray.deriving.penalty import penalised
from polar_ray.deriving.picks import best_of_n, label
from polar_ray.deriving.quantile import lower_counts, upper_counts
from polar_ray.deriving.side import is_validation
from polar_ray.deriving.texts import Texts
from polar_ray.deriving.units import Unit, UnitReader, kept
from polar_ray.deriving.wanted import Wanted
from polar_ray.recipe.derive import DeriveRecipe

TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True)
class Work:
    """What is to be done with every unit. Small and picklable.

    Attributes:
        storage: Where the score table is.
        recipe: What is derived.
        wanted: The columns of scores that it needs.
        lowest: The reward at ``best_of_n.min_quantile``, once it is known.
    """

    storage: Storage
    recipe: DeriveRecipe
    wanted: Wanted
    lowest: float | None = None


@dataclass(frozen=True)
class Derived:
    """What came of one unit.

    Attributes:
        rows: The rows of ``train`` and ``validation``; for JSON lines, one binary column with encoded lines.
        ledger: The prompts that gave nothing, with ``LEDGER_SCHEMA``.
        prompts: Prompts read.
        candidates: Candidates read.
        prompts_with: Prompts that gave rows.
        reasons: Prompts that gave nothing, by reason.
        removed_candidates: Candidates left out, by condition.
        removed_pairs: Proposed pairs dropped, by filter.
        curve: Sums for the N-curve.
    """

    rows: dict[str, pa.Table]
    ledger: pa.Table
    prompts: int
    candidates: int
    prompts_with: int
    reasons: Counter[str]
    removed_candidates: Counter[str]
    removed_pairs: Counter[str] = field(default_factory=Counter)
    curve: CurveSums | None = None


def derive_unit(work: Work, unit: Unit) -> Derived:
    """Derives from one unit."""
    recipe = work.recipe
    with UnitReader(kept(work.storage), unit) as reader:
        texts = Texts(reader.read)
        block = penalised(block_of(reader.read(work.wanted.columns), work.wanted), recipe.reward.length_penalty, texts)
        shape = shape_of(recipe.export, recipe.task)
        fits = shape.fits if shape else None
        if recipe.pairs:
            pairs = make_pairs(block, recipe.candidates, recipe.pairs, texts, seed=recipe.seed, fits=fits)
            shaped = shape_pairs(PairRows(block, pairs, texts), recipe.export, provenance=recipe.files.provenance)
            rows = _split(shaped, pairs.group, texts, recipe)
            return _derived(
                block, rows, pairs.group, pairs.ledger, pairs.removed_candidates, removed_pairs=pairs.removed_pairs
            )
        if recipe.best_of_n:
            picks = best_of_n(block, recipe.candidates, recipe.best_of_n, texts, lowest=work.lowest, fits=fits)
        else:
            assert recipe.labels
            picks = label(block, recipe.candidates, recipe.labels, texts, fits=fits)
        shaped = shape_picks(PickRows(block, picks, texts), recipe.export, provenance=recipe.files.provenance)
        rows = _split(shaped, picks.group, texts, recipe)
        return _derived(block, rows, picks.group, picks.ledger, picks.removed_candidates, curve=picks.curve)


def count_upper(work: Work, unit: Unit) -> np.ndarray:
    """First pass for a quantile; see ``quantile``."""
    return upper_counts(_usable_rewards(work, unit))


def count_lower(work: Work, upper: int, unit: Unit) -> np.ndarray:
    """Second pass for a quantile."""
    return lower_counts(_usable_rewards(work, unit), upper)


def _usable_rewards(work: Work, unit: Unit) -> np.ndarray:
    """Rewards of the candidates that pass the conditions on numbers; those on texts do not count here."""
    candidates = work.recipe.candidates
    with UnitReader(kept(work.storage), unit) as reader:
        texts = Texts(reader.read)
        block = block_of(reader.read(work.wanted.columns), work.wanted)
        block = penalised(block, work.recipe.reward.length_penalty, texts)
    usable = ~np.isnan(block.reward)
    if candidates.truncated == "drop":
        usable &= ~block.truncated
    if candidates.max_uncertainty is not None and block.uncertainty is not None:
        usable &= block.uncertainty <= candidates.max_uncertainty
    return np.asarray(block.reward[usable])


def _derived(
    block: Block,
    rows: dict[str, pa.Table],
    groups: np.ndarray,
    ledger: Ledger,
    removed_candidates: Counter[str],
    *,
    removed_pairs: Counter[str] | None = None,
    curve: CurveSums | None = None,
) -> Derived:
    return Derived(
        rows=rows,
        ledger=ledger.table(block.prompt_ids, block.sizes),
        prompts=len(block),
        candidates=len(block.reward),
        prompts_with=len(np.unique(groups)),
        reasons=ledger.counts(),
        removed_candidates=removed_candidates,
        removed_pairs=removed_pairs or Counter(),
        curve=curve,
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
