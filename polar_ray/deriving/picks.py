"""Picks: from a block of the score table to selected or labelled candidates, and a reason for every prompt without."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from polar_ray.deriving.block import Block, threshold
from polar_ray.deriving.curve import CurveSums, curve_sums
from polar_ray.deriving.eligible import Fits, eligible
from polar_ray.deriving.ledger import Ledger
from polar_ray.deriving.order import Order, best_first
from polar_ray.deriving.texts import Texts
from polar_ray.recipe.selections import BestOfN, Candidates, Labels

GOOD, UNSURE, BAD = "good", "unsure", "bad"


@dataclass(frozen=True)
class Picks:
    """Candidates of a block, in the order of its groups, inside a group by falling reward.

    Attributes:
        group: int64 [K].
        candidate: int64 [K], numbers of candidates in the block.
        place: int64 [K], place among the usable candidates of the prompt, 0 is best; equals have places of their own.
        z_score: float64 [K], standard deviations above the mean of the prompt's usable candidates.
        label: ``good``, ``unsure`` or ``bad`` [K]; None where candidates are selected.
        ledger: A reason for every group without any, none for the others.
        removed_candidates: Candidates by the condition that they failed.
        curve: Sums for the N-curve; None where candidates are labelled.
    """

    group: np.ndarray
    candidate: np.ndarray
    place: np.ndarray
    z_score: np.ndarray
    label: np.ndarray | None
    ledger: Ledger
    removed_candidates: Counter[str]
    curve: CurveSums | None = None

    def __len__(self) -> int:
        return len(self.group)


def best_of_n(
    block: Block,
    candidates: Candidates,
    config: BestOfN,
    texts: Texts,
    *,
    lowest: float | None = None,
    fits: Fits | None = None,
) -> Picks:
    """Selects candidates.

    Args:
        block: Groups of a score table.
        candidates: Which candidates may be used.
        config: The conditions, all of which must hold.
        texts: Of the block.
        lowest: The reward at ``config.min_quantile``; see ``quantile``.
        fits: What the export can hold.
    """
    ledger, removed = Ledger(len(block)), Counter[str]()
    order = best_first(block, eligible(block, candidates, texts, ledger, removed, needed=1, fits=fits))
    z_score = z_scores(order)
    kept = np.ones(len(order.candidate), bool)
    if config.min_reward is not None:
        kept &= order.reward >= threshold(config.min_reward)
    if lowest is not None:
        kept &= order.reward.astype(np.float32) >= np.float32(lowest)
    if config.min_z is not None:
        kept &= z_score >= config.min_z
    removed["below_threshold"] += int(np.count_nonzero(~kept))
    ledger.close(np.bincount(order.group[kept], minlength=len(block)) == 0, "below_threshold")
    if config.top_k is not None:
        # Every condition lets the better of two candidates pass, so places need not be counted anew.
        removed["top_k"] += int(np.count_nonzero(kept & (order.place >= config.top_k)))
        kept &= order.place < config.top_k
    curve = curve_sums(order, config.curve) if config.curve else None
    return _picks(order, kept, z_score, None, ledger, removed, curve)


def label(block: Block, candidates: Candidates, config: Labels, texts: Texts, *, fits: Fits | None = None) -> Picks:
    """Labels candidates good, unsure or bad. See ``best_of_n`` for the arguments."""
    ledger, removed = Ledger(len(block)), Counter[str]()
    order = best_first(block, eligible(block, candidates, texts, ledger, removed, needed=1, fits=fits))
    z_score = z_scores(order)
    value = order.reward if config.by == "reward" else z_score
    good, bad = config.good, config.bad
    if config.by == "reward":
        good, bad = threshold(good), threshold(bad)
    labels = np.select([value >= good, value <= bad], [GOOD, BAD], UNSURE)
    kept = np.ones(len(labels), bool)
    if config.unsure == "drop":
        kept = labels != UNSURE
        removed["unsure"] += int(np.count_nonzero(~kept))
        ledger.close(np.bincount(order.group[kept], minlength=len(block)) == 0, "unsure")
    return _picks(order, kept, z_score, labels, ledger, removed, None)


def z_scores(order: Order) -> np.ndarray:
    """Returns (reward - mean) / population standard deviation inside each group: float64 [E], 0 where it is 0."""
    mean, deviation = order.moments()
    group = order.group
    above = order.reward - mean[group]
    return np.asarray(np.divide(above, deviation[group], out=np.zeros(len(above)), where=deviation[group] > 0))


def _picks(
    order: Order,
    kept: np.ndarray,
    z_score: np.ndarray,
    labels: np.ndarray | None,
    ledger: Ledger,
    removed: Counter[str],
    curve: CurveSums | None,
) -> Picks:
    return Picks(
        group=order.group[kept],
        candidate=order.candidate[kept],
        place=order.place[kept],
        z_score=z_score[kept],
        label=None if labels is None else labels[kept],
        ledger=ledger,
        removed_candidates=+removed,
        curve=curve,
    )
