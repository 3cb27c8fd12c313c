"""Which candidates may be used: one condition after the other."""

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from rapidfuzz import fuzz, process

from polar_ray.deriving.block import Block
from polar_ray.deriving.ledger import Ledger
from polar_ray.deriving.order import best_first
from polar_ray.deriving.texts import Texts
from polar_ray.recipe.selections import Candidates

Fits = Callable[[Texts], tuple[np.ndarray, np.ndarray]]
"""Says which prompts (bool [G]) and which candidates (bool [C]) an export can hold."""


def eligible(
    block: Block,
    candidates: Candidates,
    texts: Texts,
    ledger: Ledger,
    removed: Counter[str],
    *,
    needed: int,
    fits: Fits | None = None,
) -> np.ndarray:
    """Returns which candidates may be used: bool [C].

    A group that is left with fewer than ``needed`` candidates is closed in the ledger, for the condition that took the
    one too many. ``removed`` counts the candidates that each condition took.
    """
    ledger.close(block.sizes < needed, "too_few_candidates")
    left = np.ones(len(block.reward), bool)
    for reason, keep in _conditions(block, candidates, texts, fits):
        kept = left & keep(left)
        removed[reason] += int(np.count_nonzero(left) - np.count_nonzero(kept))
        left = kept
        ledger.close(block.count(left) < needed, reason)
    return left


def _conditions(
    block: Block, candidates: Candidates, texts: Texts, fits: Fits | None
) -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """Yields reasons, and functions from the candidates left so far to those that the condition lets pass."""
    is_reference, uncertainty, most = block.is_reference, block.uncertainty, candidates.max_uncertainty
    if is_reference is not None:
        yield "is_reference", lambda left: ~is_reference
    if block.unjoined is not None:
        unjoined = block.unjoined
        yield "not_joined", lambda left: ~unjoined
    yield "no_reward", lambda left: ~np.isnan(block.reward)
    if candidates.truncated == "drop":
        yield "truncated", lambda left: ~block.truncated
    if most is not None:
        assert uncertainty is not None, "the recipe names the column"
        # A comparison with NaN is false: what is not known is not certain.
        yield "uncertain", lambda left: uncertainty <= most
    if candidates.max_disagreement is not None:
        disagreement, widest = block.disagreement, candidates.max_disagreement
        assert disagreement is not None, "the recipe combines scorers"
        yield "disagreement", lambda left: disagreement <= widest
    if fits is not None:
        yield "not_in_format", lambda left: _in_format(block, *fits(texts))
    if candidates.empty == "drop":
        yield "empty_text", lambda left: ~texts.empty
    if candidates.duplicates == "drop":
        yield "duplicate_text", lambda left: _first_of_each_text(block, left, texts)
    if candidates.max_similarity is not None:
        similarity = candidates.max_similarity
        yield "similar_text", lambda left: _unlike_better_ones(block, left, texts, similarity)


def _in_format(block: Block, prompts: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    return np.asarray(candidates & np.repeat(prompts, block.sizes))


def _first_of_each_text(block: Block, left: np.ndarray, texts: Texts) -> np.ndarray:
    """Marks the best of those of a group that have the same text."""
    order = best_first(block, left)
    codes = texts.codes[order.candidate]
    keys = order.group * (int(codes.max(initial=0)) + 1) + codes
    _, first = np.unique(keys, return_index=True)
    marked = np.zeros(len(left), bool)
    marked[order.candidate[first]] = True
    return marked


def _unlike_better_ones(block: Block, left: np.ndarray, texts: Texts, most: float) -> np.ndarray:
    """Marks, from the best down, each that is not too similar to a better one that is marked."""
    order = best_first(block, left)
    marked = np.zeros(len(left), bool)
    for group in np.flatnonzero(order.counts):
        candidates = order.candidate[order.starts[group] : order.starts[group + 1]]
        strings = texts.strings(candidates)
        similar = process.cdist(strings, strings, scorer=fuzz.ratio, dtype=np.float64, workers=1) > 100 * most
        kept = np.zeros(len(candidates), bool)
        for place in range(len(candidates)):
            kept[place] = not (similar[place] & kept).any()
        marked[candidates[kept]] = True
    return marked
