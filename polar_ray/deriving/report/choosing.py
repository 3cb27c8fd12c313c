"""Which prompts a person is shown: the first few of each kind over the whole table, and some at random."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from polar_ray.deriving.order import Order
from polar_ray.deriving.report.frame import Frame
from polar_ray.deriving.report.within import group_best, group_sums

CATEGORIES = {
    "random": "picked at random",
    "best": "highest best reward",
    "worst": "lowest best reward",
    "closest": "smallest margin of the best over the second, ties apart",
    "tied": "several candidates share the best reward",
    "widest": "largest margin of the best over the worst",
    "uncertain": "least certain",
    "against_label": "the best by reward has a worse label than another",
    "longest": "longest candidate",
    "failed": "most candidates without a reward",
}
"""Why a prompt is shown, in the order of the page."""


class Place(NamedTuple):
    """A row of the score table: the part's path and the row in it. Places compare in the order of the table."""

    part: str
    row: int


@dataclass(frozen=True)
class Chosen:
    """The first prompts of each category, with the numbers that put them in order, lowest first.

    The second number is random: prompts that are equal in what counts come from all over the table.
    """

    by_category: dict[str, list[tuple[float, float, Place]]]

    def merged(self, other: "Chosen", most: int) -> "Chosen":
        """Returns the first of both together."""
        names = dict.fromkeys([*self.by_category, *other.by_category])
        both = {name: self.by_category.get(name, []) + other.by_category.get(name, []) for name in names}
        return Chosen({name: sorted(found)[:most] for name, found in both.items()})

    def places(self) -> dict[Place, list[str]]:
        """Returns each prompt with its categories, by category and in order."""
        found: dict[Place, list[str]] = {}
        for name in CATEGORIES:
            for *_, place in self.by_category.get(name, []):
                found.setdefault(place, []).append(name)
        return found


def choose(
    frame: Frame, order: Order, parts: tuple[str, ...], part_rows: list[int], most: int, chance: np.random.Generator
) -> Chosen:
    """Chooses among the prompts of a unit, by the first scorer's rewards, whose order is given."""
    block, groups = frame.blocks[0], len(frame.sizes)
    keys = {"random": chance.random(groups), **_by_reward(order, groups)}
    keys["failed"] = -group_sums(np.isnan(block.reward), frame.group, groups)
    keys["failed"][keys["failed"] == 0] = np.nan
    lengths = next(iter(frame.lengths[0].values()), None)
    if lengths is not None:
        longest = group_best(np.nan_to_num(lengths, nan=-np.inf), frame.group, groups)
        keys["longest"] = np.where(np.isfinite(longest) & (longest > 0), -longest, np.nan)
    uncertain = _uncertainty(frame, order, groups)
    if uncertain is not None:
        keys["uncertain"] = uncertain
    if frame.labels:
        keys["against_label"] = _against_labels(frame, groups)
    first_rows = np.concatenate([[0], np.cumsum(part_rows)])
    chosen: dict[str, list[tuple[float, float, Place]]] = {}
    lot = chance.random(groups)
    for name, key in keys.items():
        rows = np.lexsort((lot, key))[:most]
        rows = rows[~np.isnan(key[rows])]
        part = np.searchsorted(first_rows, rows, side="right") - 1
        chosen[name] = [
            (float(key[row]), float(lot[row]), Place(parts[where], int(row - first_rows[where])))
            for row, where in zip(rows.tolist(), part.tolist(), strict=True)
        ]
    return Chosen(chosen)


def _by_reward(order: Order, groups: int) -> dict[str, np.ndarray]:
    best, second, worst = (np.full(groups, np.nan) for _ in range(3))
    some, several = order.counts > 0, order.counts > 1
    best[some] = order.reward[order.starts[:-1][some]]
    second[several] = order.reward[order.starts[:-1][several] + 1]
    worst[several] = order.reward[order.starts[1:][several] - 1]
    margin = best - second
    return {
        "best": -best,
        "worst": best,
        "closest": np.where(margin > 0, margin, np.nan),
        # Of the ties, those first that are not between bad answers.
        "tied": np.where(margin == 0, -best, np.nan),
        "widest": np.where(best > worst, worst - best, np.nan),
    }


def _uncertainty(frame: Frame, order: Order, groups: int) -> np.ndarray | None:
    """The best candidate's uncertainty where the scorer gives one, else how much scorers differ in order; negated."""
    uncertainty = frame.blocks[0].uncertainty
    if uncertainty is not None:
        key = np.full(groups, np.nan)
        some = order.counts > 0
        key[some] = -uncertainty[order.candidate[order.starts[:-1][some]]]
        return key
    if len(frame.blocks) == 1:
        return None
    standard = [_standard(block.reward, frame.group, groups) for block in frame.blocks]
    apart = np.std(np.stack(standard), axis=0)
    largest = group_best(np.nan_to_num(apart, nan=-np.inf), frame.group, groups)
    return np.where(np.isfinite(largest) & (largest > 0), -largest, np.nan)


def _standard(reward: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Rewards in standard deviations from their prompt's mean; 0 where all of a prompt are equal."""
    known = ~np.isnan(reward)
    count = np.maximum(group_sums(known, group, groups), 1)
    away = reward - (group_sums(np.where(known, reward, 0.0), group, groups) / count)[group]
    deviation = np.sqrt(group_sums(np.where(known, away**2, 0.0), group, groups) / count)[group]
    return np.where(deviation > 1e-9, away / np.maximum(deviation, 1e-9), np.where(known, 0.0, np.nan))


def _against_labels(frame: Frame, groups: int) -> np.ndarray:
    """Minus the share of the labels' range that is lost by taking the highest reward; NaN where nothing is."""
    reward, group = frame.blocks[0].reward, frame.group
    lost = np.zeros(groups)
    for label in frame.labels.values():
        both = ~np.isnan(label) & ~np.isnan(reward)
        of, labels = group[both], label[both]
        best, worst = group_best(labels, of, groups), -group_best(-labels, of, groups)
        top = reward[both] == group_best(reward[both], of, groups)[of]
        picked = group_best(labels[top], of[top], groups)
        several = best > worst
        share = np.zeros(groups)
        share[several] = (best[several] - picked[several]) / (best[several] - worst[several])
        lost = np.maximum(lost, share)
    return np.where(lost > 0, -lost, np.nan)
