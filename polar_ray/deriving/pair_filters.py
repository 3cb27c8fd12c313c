"""Which proposed pairs are dropped: one condition after the other."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from polar_ray.deriving.block import Block, threshold
from polar_ray.deriving.ledger import Ledger
from polar_ray.deriving.order import Order
from polar_ray.deriving.strategies import Proposals
from polar_ray.deriving.texts import Texts, length_ratio
from polar_ray.recipe.pairs import Pairs


class Candidates:
    """The candidates of proposed pairs, as numbers in the block, with their rewards."""

    def __init__(self, pairs: Proposals, order: Order) -> None:
        chosen, rejected = order.at(pairs.group, pairs.chosen), order.at(pairs.group, pairs.rejected)
        self.group = pairs.group
        self.chosen, self.rejected = order.candidate[chosen], order.candidate[rejected]
        self.chosen_reward = order.reward[chosen]
        self.margin = self.chosen_reward - order.reward[rejected]

    @property
    def rounding(self) -> np.ndarray:
        """float64 [P]: how far a margin may be off, since both rewards are rounded to float32.

        Rewards that are shown as 0.9 and 0.4 have a margin of 0.5, not of less.
        """
        largest = np.maximum(np.abs(self.chosen_reward), np.abs(self.chosen_reward - self.margin))
        return np.asarray(np.spacing(largest.astype(np.float32)), np.float64)


def keep_pairs(
    pairs: Proposals,
    order: Order,
    block: Block,
    config: Pairs,
    texts: Texts,
    ledger: Ledger,
    removed: Counter[str],
) -> Proposals:
    """Returns the pairs that pass all filters.

    A group that loses its last pair is closed in the ledger, for the filter that took it. ``removed`` counts the pairs
    that each filter took.
    """
    for reason, passes in _filters(block, config, texts):
        before = _has_pairs(pairs, len(block))
        kept = pairs.where(passes(Candidates(pairs, order)))
        removed[reason] += len(pairs) - len(kept)
        pairs = kept
        ledger.close(before & ~_has_pairs(pairs, len(block)), reason)
    return pairs


def _has_pairs(pairs: Proposals, groups: int) -> np.ndarray:
    return np.bincount(pairs.group, minlength=groups) > 0


def _filters(block: Block, config: Pairs, texts: Texts) -> Iterator[tuple[str, Callable[[Candidates], np.ndarray]]]:
    """Yields reasons, and functions from pairs to those that pass: first the cheap ones, text last."""
    if config.ties == "drop":
        yield "tie", lambda pairs: pairs.margin > 0
    if config.min_margin > 0:
        yield "margin_too_small", lambda pairs: pairs.margin >= config.min_margin - pairs.rounding
    if (most := config.max_margin) is not None:
        yield "margin_too_large", lambda pairs: pairs.margin <= most + pairs.rounding
    if (lowest := config.min_chosen) is not None:
        yield "chosen_too_low", lambda pairs: pairs.chosen_reward >= threshold(lowest)
    if config.above_reference is not None:
        reference = _reference_reward(block)
        yield "no_reference_reward", lambda pairs: ~np.isnan(reference[pairs.group])
        yield "below_reference", lambda pairs: pairs.chosen_reward > reference[pairs.group]
    if (sigmas := config.min_sigmas) is not None:
        deviation = block.uncertainty
        assert deviation is not None, "the recipe names the column"
        # A comparison with NaN is false: a margin beyond an uncertainty that is not known is not known either.
        yield (
            "uncertain_margin",
            lambda pairs: pairs.margin >= sigmas * np.hypot(deviation[pairs.chosen], deviation[pairs.rejected]),
        )
    for name in config.agreement:
        yield "scorers_disagree", partial(_agrees, block.others[name])
    if config.equal_texts == "drop":
        yield "equal_text", lambda pairs: texts.codes[pairs.chosen] != texts.codes[pairs.rejected]
    if (ratio := config.length_ratio) is not None:
        yield (
            "length_ratio",
            lambda pairs: length_ratio(texts.characters[pairs.chosen], texts.characters[pairs.rejected]) <= ratio,
        )
    if (similarity := config.max_similarity) is not None:
        yield "similar_pair", lambda pairs: texts.similarity(pairs.chosen, pairs.rejected) <= similarity


def _agrees(rewards: np.ndarray, pairs: Candidates) -> np.ndarray:
    return np.asarray(rewards[pairs.chosen] > rewards[pairs.rejected])


def _reference_reward(block: Block) -> np.ndarray:
    """float64 [G]: the reference's reward, or NaN."""
    if block.reference_reward is not None:
        return block.reference_reward
    assert block.is_reference is not None
    best = np.full(len(block), -np.inf)
    known = block.is_reference & ~np.isnan(block.reward)
    np.maximum.at(best, block.group[known], block.reward[known])
    return np.where(np.isinf(best), np.nan, best)
