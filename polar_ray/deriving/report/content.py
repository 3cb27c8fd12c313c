"""What the page shows, as plain data: every figure of it is computed here, from sums over the whole table."""

from typing import Any

import numpy as np

from polar_ray.deriving.curve import CurveSums
from polar_ray.deriving.quantile import value_in_bin
from polar_ray.deriving.report.frame import STATUSES
from polar_ray.deriving.report.histogram import LENGTH_EDGES, shown
from polar_ray.deriving.report.labels import LabelKind, LabelSums
from polar_ray.deriving.report.measure import LengthSums, Measured, Measuring, Sample, ScorerSums, margin_bins
from polar_ray.deriving.report.models import UNNAMED, models_of
from polar_ray.deriving.report.moments import Moments, share, spearman
from polar_ray.deriving.report.pairwise import PairSums
from polar_ray.deriving.report.survey import QUANTILES, Survey

MARGIN_BINS = 40
CURVE_POINTS = 64
"""Points of an N-curve that are shown: all up to 32, then fewer."""

Data = dict[str, Any]


def content(survey: Survey, measuring: Measuring, measured: Measured, kinds: dict[str, str]) -> Data:
    """Returns the figures of a report; ``kinds`` are the scorers' in the recipe, by name."""
    names = [scorer.name for scorer in measuring.sources.scorers]
    labels = [name or kinds.get(name, "reward") for name in names]
    # In a table with more names than are counted nothing can be said of all models.
    complete = sum(survey.models.values()) == survey.candidates
    scorers = []
    for number, sums in enumerate(measured.scorers):
        of_labels = {kind: found for (scorer, kind), found in measured.labels.items() if scorer == number}
        scorers.append(
            {
                "name": names[number],
                "label": labels[number],
                "kind": kinds.get(names[number]),
                **_scorer(number, sums, measuring),
                **models_of(sums, measuring.models, measuring.apart, complete=complete),
                "lengths": [
                    _length(unit, found, sums.pairs, measured.sample, number)
                    for unit, found in sums.lengths.items()
                    if found.together.x.count[0]
                ],
                "labels": [_label(kind, found) for kind, found in of_labels.items()],
            }
        )
    return {
        "prompts": survey.prompts,
        "candidates": survey.candidates,
        "models": [name or UNNAMED for name in measuring.models[: measuring.apart]] if any(measuring.models) else [],
        "sampled": {"candidates": len(measured.sample.rewards[0]) if names else 0, "of": survey.candidates},
        "scorers": scorers,
        "agreement": [
            {
                "scorers": [labels[a], labels[b]],
                "pairs": pairs.both,
                "told_apart": pairs.told,
                "same_order": share(pairs.same, pairs.told),
                "spearman": _sampled(measured.sample.rewards[a], measured.sample.rewards[b]),
                "within_spearman": within.mean_spearman,
                "within_prompts": within.prompts,
            }
            for (a, b), (pairs, within) in measured.agreement.items()
        ],
    }


def _scorer(number: int, sums: ScorerSums, measuring: Measuring) -> Data:
    bins = measuring.bins[number]
    by_status = sums.statuses.sum(axis=0)
    names = [*STATUSES, "other"]
    rewarded = sums.moments.together().describe()
    histogram = sums.histogram.sum(axis=0)
    several, with_one = int(sums.sizes[2]), int(sums.sizes[1])
    return {
        "statuses": {name: int(count) for name, count in zip(names, by_status, strict=True) if count},
        "errors": [{"message": text, "count": count} for text, count in sums.errors.most_common(5)],
        "reward": {
            **rewarded,
            "quantiles": [
                {"share": part, "value": value_in_bin(found, counts) if found else None}
                for part, found, counts in zip(QUANTILES, measuring.quantiles[number], sums.quantiles, strict=True)
            ],
            "histogram": shown(bins, histogram),
        },
        "prompts": {"with_none": int(sums.sizes[0]), "with_one": with_one, "with_several": several},
        "margins": {
            name: _margin(moments, counts, margin_bins(bins)) for name, (moments, counts) in sums.margins.items()
        },
        "ties": {
            "best_shared": int(sums.ties[0]),
            "all_equal": int(sums.ties[1]),
            "of": several,
            "pairs": sums.pairs.pairs,
            "tied_pairs": sums.pairs.tied,
        },
        "curve": _curve(sums.curve),
    }


def _margin(moments: Moments, counts: np.ndarray, fine: Any) -> Data:
    bins, merged = fine.coarser(counts, MARGIN_BINS)
    return {**moments.describe(), "histogram": shown(bins, merged)}


def _curve(sums: CurveSums) -> list[Data]:
    """Of a long curve the points of which the next is a twelfth further."""
    points: list[Data] = [dict(point) for point in sums.points()]
    if len(points) <= CURVE_POINTS:
        return points
    kept, wanted = [], 1.0
    for point in points:
        if point["n"] >= wanted or point is points[-1]:
            kept.append(point)
            wanted = max(point["n"] + 1, point["n"] * 13 / 12) if point["n"] >= 32 else point["n"] + 1
    return kept


def _length(unit: str, sums: LengthSums, pairs: PairSums, sample: Sample, scorer: int) -> Data:
    told, longer = pairs.longer[unit]
    many = sums.density.sum(axis=1)
    used = np.flatnonzero(many)
    first, last = int(used[0]), int(used[-1]) + 1
    edges = [*LENGTH_EDGES.tolist(), None][first : last + 1]
    return {
        "unit": unit,
        **sums.together.x.describe(),
        "pearson": sums.together.pearson,
        "spearman": _sampled(sample.lengths[scorer][unit], sample.rewards[scorer]),
        "within_pearson": sums.within.pearson,
        "within_candidates": sums.within.candidates,
        "within_spearman": sums.within.mean_spearman,
        "within_prompts": sums.within.prompts,
        "baseline": {
            "prompts": sums.longest.prompts,
            "longest_is_best": share(sums.longest.hits, sums.longest.prompts),
            "chance": share(sums.longest.chance, sums.longest.prompts),
            "pairs": told,
            "longer_is_better": share(longer, told),
        },
        "density": {
            "edges": edges,
            "counts": sums.density[first:last].tolist(),
            "mean_reward": [
                share(float(total), int(count))
                for total, count in zip(sums.reward[first:last], many[first:last], strict=True)
            ],
        },
    }


def _label(kind: LabelKind, sums: LabelSums) -> Data:
    return {
        "kind": kind.kind,
        "field": kind.field,
        "labelled": sums.labelled,
        "usable": sums.usable,
        "prompts": sums.prompts,
        "telling_prompts": sums.telling,
        "pairs": sums.pairs,
        "accuracy": share(sums.agreeing / 2, sums.pairs),
        "length_pairs": sums.by_length,
        "length_accuracy": share(sums.longer / 2, sums.by_length),
        "best": share(sums.picked, sums.prompts),
        "random": share(sums.mean, sums.prompts),
        # Where some lengths are not known there is nothing to compare on the same prompts.
        "longest": share(sums.longest, sums.prompts) if sums.lengths == sums.prompts else None,
        "oracle": share(sums.oracle, sums.prompts),
    }


def _sampled(x: np.ndarray, y: np.ndarray) -> float | None:
    both = ~np.isnan(x) & ~np.isnan(y)
    return spearman(x[both], y[both])
