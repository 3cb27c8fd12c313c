"""Plain computations of what a report says: loops over rows, to hold the report to."""

import itertools
import json
import math
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def page_data(path: Path) -> dict[str, Any]:
    """Returns the data inside a page; NaN or Infinity in it is an error, as it is for a browser."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert len(found) == 1

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    data: dict[str, Any] = json.loads(found[0], parse_constant=refuse)
    return data


def rewards(row: Row, column: str = "reward") -> list[float]:
    """Returns the rewards that there are, best first."""
    return sorted((reward for reward in row[column] if reward is not None), reverse=True)


def text(candidate: Row) -> str:
    return "\n".join(message["content"] for message in candidate["messages"])


def pairs(row: Row, *columns: list[float | None]) -> Iterator[tuple[int, int]]:
    """Yields every two candidates that have a value in each of the columns."""
    known = [place for place in range(len(row["candidates"])) if all(column[place] is not None for column in columns)]
    yield from itertools.combinations(known, 2)


def sign(one: float, other: float) -> int:
    return (one > other) - (one < other)


def pearson(x: list[float], y: list[float]) -> float | None:
    if len(x) < 2 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return statistics.correlation(x, y)


def ranked(values: list[float]) -> list[float]:
    """Ranks in which ties share the mean of their places."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2 for value in values
    ]


def spearman(x: list[float], y: list[float]) -> float | None:
    return pearson(ranked(x), ranked(y))


def inside(rows: list[tuple[list[float], list[float]]]) -> tuple[float | None, float | None, int]:
    """Returns Pearson's correlation of deviations, the mean Spearman's, and the number of prompts behind that."""
    dx, dy, each = [], [], []
    for x, y in rows:
        if len(x) >= 2:
            dx += [value - statistics.fmean(x) for value in x]
            dy += [value - statistics.fmean(y) for value in y]
        if len(x) >= 3 and (one := spearman(x, y)) is not None:
            each.append(one)
    xx, yy = math.fsum(v * v for v in dx), math.fsum(v * v for v in dy)
    together = math.fsum(a * b for a, b in zip(dx, dy, strict=True)) / math.sqrt(xx * yy) if xx and yy else None
    return together, statistics.fmean(each) if each else None, len(each)


def quantile(values: list[float], share: float) -> float:
    """The smallest value of which at least that share of all are at or below it."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def best_of(values: list[float], n: int) -> float:
    """The mean over all subsets of n of their best."""
    return statistics.fmean(max(subset) for subset in itertools.combinations(values, n))
