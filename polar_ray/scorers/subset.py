"""Scores some groups of a table and fills in a status for the others."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.status import Status
from polar_ray.scorers.answers import score_checked
from polar_ray.scorers.base import Scorer, Scores
from polar_ray.scorers.pieces import concat, take_groups, unscored


def score_subset(
    scorer: Scorer, groups: pa.Table, encoded: pa.Table | None, left_out: Iterable[int], status: Status, error: str
) -> Scores:
    """Scores ``groups`` except the rows ``left_out``, whose candidates get ``status`` and ``error`` instead."""
    keep = np.ones(groups.num_rows, bool)
    keep[list(left_out)] = False
    kept_groups, kept_encoded = take_groups(groups, encoded, np.flatnonzero(keep))
    if kept_groups.num_rows:
        scores = score_checked(scorer, kept_groups, kept_encoded)
    else:
        scores = unscored(0, status, error, scorer.extras)
    sizes = pc.list_value_length(groups.column("candidates")).to_numpy(zero_copy_only=False)
    scored = np.repeat(keep, sizes)
    others = unscored(int(len(scored) - scored.sum()), status, error, scorer.extras)
    # Position of each candidate in the scored ones followed by the others.
    position = np.empty(len(scored), np.int64)
    position[scored] = np.arange(scored.sum())
    position[~scored] = scored.sum() + np.arange((~scored).sum())
    return concat([scores, others], position)
