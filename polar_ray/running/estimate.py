"""Estimates: how much an input holds, by a sample of its splits, and how far that may be off."""

from collections.abc import Sequence

import numpy as np

from polar_ray.data.raw_split import RawSplit
from polar_ray.data.sources import Source

_T_95 = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365}
"""Student's t for 95 % and so many degrees of freedom; with one, nothing that is worth saying follows."""


def exact_rows(sources: Sequence[Source]) -> int | None:
    """Returns how many rows there are, where Parquet footers tell; None where lines would have to be counted."""
    stops = [(source.row_start, source.row_stop) for source in sources if source.error is None]
    return sum(stop - start for start, stop in stops if stop is not None) if _all_known(sources) else None


def _all_known(sources: Sequence[Source]) -> bool:
    return bool(sources) and all(source.row_stop is not None and source.error is None for source in sources)


def total_of(counted: np.ndarray, size: np.ndarray, of: float) -> tuple[float, float | None]:
    """Returns the estimated sum over all splits, and how far it may be off, or None where nobody can tell.

    The rows of a split are alike, so what counts is how the splits differ: the ratio estimator of a cluster sample
    (Cochran, Sampling Techniques, 3rd ed., section 6.13), at 95 %.

    Args:
        counted: float64 [n], what is asked about in each split that was looked at.
        size: float64 [n], their sizes.
        of: The size of all splits together, at least that of the sample.
    """
    many, ratio = len(counted), counted.sum() / size.sum()
    left_out = max(0.0, 1 - size.sum() / of)
    if left_out == 0:
        return float(ratio * of), 0.0
    if many - 1 not in _T_95:
        return float(ratio * of), None
    spread = np.sqrt(((counted - ratio * size) ** 2).sum() / (many - 1))
    standard_error = of / size.mean() * spread / np.sqrt(many) * np.sqrt(left_out)
    return float(ratio * of), float(_T_95[many - 1] * standard_error)


def estimate(
    sources: Sequence[Source],
    sampled: Sequence[RawSplit],
    share: float,
    candidates: np.ndarray,
    tokens: np.ndarray | None,
) -> list[str]:
    """Returns what the input holds, in lines.

    Args:
        sources: All that would be read.
        sampled: What was looked at of it.
        share: The share of the bytes that this is.
        candidates: int64, candidates in each split that was looked at, or in all of them together.
        tokens: int64, tokens likewise, or None where no model reads ids.
    """
    if not candidates.sum() or not share:
        return ["no candidates in the sample"]
    each_rows = np.array([raw.rows for raw in sampled], np.float64)
    rows = exact_rows(sources)
    if rows is None:
        size = np.array([raw.input_bytes for raw in sampled], np.float64)
        total, where = size.sum() / share, f"the sample is {share:.1%} of the input by bytes"
    else:
        size, total = each_rows, float(rows)
        part = "all of them" if each_rows.sum() >= rows else f"{each_rows.sum():,.0f} of them"
        where = f"exactly {rows:,} rows by the Parquet footers, {part} in the sample"
    if len(candidates) != len(size):
        size = size.sum(keepdims=True)
    sure = rows is not None and each_rows.sum() >= rows
    lines = [f"{_about(candidates, size, total, 'candidates', sure)} ({where})"]
    if tokens is not None and tokens.sum():
        each = f"{tokens.sum() / candidates.sum():,.0f} per candidate"
        lines.append(f"{_about(tokens, size, total, 'tokens', sure)}, {each}")
    return lines


def _about(counted: np.ndarray, size: np.ndarray, of: float, what: str, sure: bool) -> str:
    value, error = total_of(counted.astype(np.float64), size, of)
    if sure:
        return f"{round(value):,} {what}"
    return f"about {round(value):,} {what}" + (f", ± {round(error):,}" if error is not None and round(error) else "")
