"""Pairs: from a block of the score table to chosen and rejected candidates, and a reason for every prompt without."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from polar_ray.deriving.block import Block
from polar_ray.deriving.chance import draws, prompt_seeds
from polar_ray.deriving.eligible import Fits, eligible
from polar_ray.deriving.ledger import Ledger
from polar_ray.deriving.order import Order, best_first, spread
from polar_ray.deriving.pair_filters import Candidates as PairCandidates
from polar_ray.deriving.pair_filters import keep_pairs
from polar_ray.deriving.strategies import Proposals, draws_by_prompt, propose
from polar_ray.deriving.texts import Texts
from polar_ray.recipe.pairs import Pairs
from polar_ray.recipe.selections import Candidates


@dataclass(frozen=True)
class MadePairs:
    """The pairs of a block, in the order of its groups; those of a group as ``prefer`` puts them.

    Attributes:
        group: int64 [P].
        chosen: int64 [P], numbers of candidates in the block.
        rejected: int64 [P].
        margin: float64 [P], reward of the chosen minus that of the rejected one.
        ledger: A reason for every group without a pair, none for the others.
        removed_candidates: Candidates by the condition that they failed.
        removed_pairs: Proposed pairs by the filter that they failed; ``per_prompt`` for those beyond the cap.
    """

    group: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    margin: np.ndarray
    ledger: Ledger
    removed_candidates: Counter[str]
    removed_pairs: Counter[str]

    def __len__(self) -> int:
        return len(self.group)


def make_pairs(
    block: Block, candidates: Candidates, config: Pairs, texts: Texts, *, seed: int = 0, fits: Fits | None = None
) -> MadePairs:
    """Makes the pairs of a block.

    First the candidates that may not be used are left out, then the strategy proposes pairs of the others, then filters
    drop pairs, then the cap is applied. Texts are read only where a condition looks at them.

    Args:
        block: Groups of a score table.
        candidates: Which candidates may be used.
        config: Strategy, filters and cap.
        texts: Of the block.
        seed: The only source of chance.
        fits: What the export can hold.
    """
    ledger, removed, removed_pairs = Ledger(len(block)), Counter[str](), Counter[str]()
    usable = eligible(block, candidates, texts, ledger, removed, needed=2, fits=fits)
    order = _order(block, usable, config, texts, seed)
    prompt_ids = block.prompt_ids.to_pylist() if draws_by_prompt(config.strategy) else None
    kept = [Proposals.none()]
    for proposals in propose(config.strategy, order, prompt_ids, seed):
        passed = keep_pairs(proposals, order, block, config, texts, ledger, removed_pairs)
        capped = _preferred(passed, order, block, config, seed)
        removed_pairs["per_prompt"] += len(passed) - len(capped)
        kept.append(capped)
    made = PairCandidates(Proposals.joined(kept), order)
    return MadePairs(made.group, made.chosen, made.rejected, made.margin, ledger, +removed, +removed_pairs)


def _order(block: Block, usable: np.ndarray, config: Pairs, texts: Texts, seed: int) -> Order:
    if config.tie_break == "shortest":
        return best_first(block, usable, lambda: texts.characters)
    if config.tie_break == "random":
        return best_first(block, usable, lambda: _drawn(block, seed))
    return best_first(block, usable)


def _drawn(block: Block, seed: int) -> np.ndarray:
    """uint64 [C]: a draw for each candidate, by its prompt's id and its position in the group."""
    owner, position = spread(block.sizes)
    return draws(prompt_seeds(block.prompt_ids, seed, "tie")[owner], position)


def _preferred(pairs: Proposals, order: Order, block: Block, config: Pairs, seed: int) -> Proposals:
    """Puts the pairs of each group in the order of preference and cuts them at the cap."""
    margin = PairCandidates(pairs, order).margin
    if config.prefer == "random":
        draw = draws(prompt_seeds(block.prompt_ids, seed, "pair")[pairs.group], _pair_number(pairs))
        keys: tuple[np.ndarray, ...] = (draw, pairs.group)
    else:
        signed = -margin if config.prefer == "widest" else margin
        keys = (pairs.rejected, pairs.chosen, signed, pairs.group)
    sorted_pairs = pairs.where(np.lexsort(keys))
    if config.cap is None:
        return sorted_pairs
    _, number = spread(np.bincount(sorted_pairs.group, minlength=len(block)))
    return sorted_pairs.where(number < config.cap)


def _pair_number(pairs: Proposals) -> np.ndarray:
    """A number for each pair of places that no other pair of its group has."""
    return np.asarray(pairs.rejected * (pairs.rejected - 1) // 2 + pairs.chosen)
