"""The models of a table: what each one's rewards are, and how they fare against each other inside prompts.

Who wins most and least often is found over all models. With many of them the page shows a choice by name.
"""

from typing import Any

import numpy as np

from polar_ray.deriving.report.frame import STATUSES
from polar_ray.deriving.report.measure import ScorerSums
from polar_ray.deriving.report.moments import Moments, share
from polar_ray.deriving.report.pairwise import PairSums

HALF = 12
"""Of more than twice as many models so many are shown that win most often, and so many that win least."""
UNNAMED, REST = "not named", "all others"
"""What stands for candidates whose model is not told, and for the models that are not shown; neither is a model."""

Data = dict[str, Any]


def models_of(sums: ScorerSums, names: tuple[str, ...], apart: int, *, complete: bool) -> Data:
    """Returns the figures of models for one scorer.

    Args:
        sums: Of the scorer.
        names: Of all models, those with the most candidates first; the empty name stands for not named.
        apart: How many of them, the first ones, have a histogram and a row in the matrix.
        complete: Whether these are all the models that there are.

    Returns:
        ``models``: those that are shown, and one entry for the rest; ``named`` says whether an entry is a model.
        ``duels``: their win rates against each other. ``best_model``, ``worst_model``: over all models, None where
        that is not known. ``choice``: how many models there are, and how many and which of them are shown; None if all.
    """
    rates = [_wins(place, sums.pairs) for place in range(len(names))]
    compared = [place for place, rate in enumerate(rates) if names[place] and rate["comparisons"]]
    shown = _shown(rates, apart)
    entries = [
        {
            "model": names[place] or UNNAMED,
            "named": bool(names[place]),
            **_entry(sums, np.array([place])),
            **rates[place],
        }
        for place in shown
    ]
    for entry, place in zip(entries, shown, strict=True):
        entry["counts"] = sums.histogram[place][1:-1].tolist()
    rest = np.setdiff1d(np.arange(len(names) + 1), shown)
    if names and sums.statuses[rest].sum():
        counts = sums.histogram.sum(axis=0) - sums.histogram[shown].sum(axis=0)
        nothing = {"counts": counts[1:-1].tolist(), "win_rate": None, "comparisons": 0}
        entries.append({"model": REST, "named": False, **_entry(sums, rest), **nothing})
    extremes: list[Data | None] = [None, None]
    if complete and len(compared) > 1:
        rate_of = [rates[place]["win_rate"] for place in compared]
        places = compared[int(np.argmax(rate_of))], compared[int(np.argmin(rate_of))]
        extremes = [{"model": names[place], **rates[place]} for place in places]
    return {
        "models": entries,
        "duels": _duels(sums.pairs, shown),
        "best_model": extremes[0],
        "worst_model": extremes[1],
        "choice": {"most": HALF, "least": HALF, "shown": len(shown), "of": len(names), "among": apart}
        if len(shown) < len(names)
        else None,
    }


def _shown(rates: list[Data], apart: int) -> list[int]:
    """Returns the places of the models that are shown, in order."""
    if len(rates) <= 2 * HALF:
        return list(range(len(rates)))
    # Those that never met another model tell least, so they stand in the middle, where they are left out.
    ordered = sorted(
        range(apart), key=lambda place: -(rates[place]["win_rate"] if rates[place]["comparisons"] else 0.5)
    )
    return sorted([*ordered[:HALF], *ordered[-HALF:]])


def _entry(sums: ScorerSums, places: np.ndarray) -> Data:
    moments: Moments = sums.moments.of_sets(places).together()
    statuses = sums.statuses[places].sum(axis=0)
    return {
        **moments.describe(),
        "candidates": int(statuses.sum()),
        "truncated": int(statuses[STATUSES.index("truncated")]),
    }


def _wins(place: int, pairs: PairSums) -> Data:
    """Against candidates of other models for the same prompts; a tie is half a win."""
    lost, level, won = pairs.each[:, place].tolist()
    return {"win_rate": share(won + level / 2, won + level + lost), "comparisons": won + level + lost}


def _duels(pairs: PairSums, shown: list[int]) -> list[list[float | None]]:
    """Win rates of each model (row) against each other one, None where they never met and on the diagonal."""
    level = pairs.level + pairs.level.T
    met = pairs.beaten + pairs.beaten.T + level
    return [
        [
            None
            if row == column
            else share(float(pairs.beaten[row, column] + level[row, column] / 2), int(met[row, column]))
            for column in shown
        ]
        for row in shown
    ]
