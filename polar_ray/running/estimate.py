"""Estimates: how much an input holds, by a sample of its rows, and how far that may be off."""

from collections.abc import Sequence

import numpy as np

from polar_ray.data.raw_split import RawSplit
from polar_ray.data.sources import Source


def exact_rows(sources: Sequence[Source]) -> int | None:
    """Returns how many rows there are, where Parquet footers tell; None where lines would have to be counted."""
    stops = [(source.row_start, source.row_stop) for source in sources if source.error is None]
    return sum(stop - start for start, stop in stops if stop is not None) if _all_known(sources) else None


def _all_known(sources: Sequence[Source]) -> bool:
    return bool(sources) and all(source.row_stop is not None and source.error is None for source in sources)


def total_of(each: np.ndarray, of: float) -> tuple[float, float]:
    """Returns the estimated sum over a population, and twice its standard error.

    Args:
        each: float64 [n], the values of a sample without replacement.
        of: Size of the population, at least n.
    """
    many = len(each)
    if many < 2:
        return float(each.sum()) * of / max(many, 1), 0.0
    left_out = max(0.0, 1 - many / of)
    return float(each.mean()) * of, float(2 * of * each.std(ddof=1) / np.sqrt(many) * np.sqrt(left_out))


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
        candidates: int64, candidates of each row that was looked at.
        tokens: int64, tokens of each group in it, or None where no model reads ids.
    """
    if not candidates.sum() or not share:
        return ["no candidates in the sample"]
    looked_at = sum(raw.rows for raw in sampled)
    rows = exact_rows(sources)
    if rows is None:
        total, where = looked_at / share, f"the sample is {share:.1%} of the input by bytes"
    else:
        part = "all of them" if looked_at >= rows else f"{looked_at:,} of them"
        total, where = float(rows), f"exactly {rows:,} rows by the Parquet footers, {part} in the sample"
    sure = rows is not None and looked_at >= rows
    lines = [f"{_about(candidates, total, 'candidates', sure)} ({where})"]
    if tokens is not None and tokens.sum():
        groups = len(tokens) * total / looked_at
        each = f"{tokens.sum() / candidates.sum():,.0f} per candidate"
        lines.append(f"{_about(tokens, groups, 'tokens', sure)}, {each}")
    return lines


def _about(each: np.ndarray, of: float, what: str, sure: bool) -> str:
    value, error = total_of(each.astype(np.float64), of)
    if sure:
        return f"{round(value):,} {what}"
    return f"about {round(value):,} {what}" + (f", ± {round(error):,}" if round(error) else "")
