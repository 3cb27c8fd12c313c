"""People's labels of the candidates, and how well rewards agree with them.

A label is an object with the candidate's id, ``kind``, and one of ``correct`` (true or false), ``preference`` and
``score`` (numbers; more is better). Labels are compared within one prompt and one kind only.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.deriving.report.additive import Additive
from polar_ray.deriving.report.sources import LabelSource
from polar_ray.deriving.report.within import group_best, group_sums

KINDS = 24
"""Kinds of labels that are looked at; a table with more has something else under this name."""


class LabelKind(NamedTuple):
    """What a label says: its ``kind``, and the field with the value: ``correct``, ``preference`` or ``score``."""

    kind: str
    field: str


@dataclass(frozen=True)
class LabelSums(Additive):
    """Of one scorer and one kind of label; prompts are those with two or more candidates with label and reward.

    Attributes:
        labelled: Candidates with a label.
        usable: Those of them with a reward.
        prompts: Prompts with two or more usable candidates.
        telling: Those of them whose labels differ.
        pairs: Pairs of usable candidates of a prompt with different labels.
        agreeing: Twice the pairs in which the reward says the same; a tie counts once.
        by_length: Pairs with different labels whose lengths are known.
        longer: Twice those in which the longer one has the better label; equal lengths count once.
        picked: Sum over prompts of the label of the candidate with the highest reward; ties count evenly.
        mean: Sum over prompts of the mean label: what a random pick has.
        longest: Likewise of the longest candidate.
        oracle: Of the best label.
        lengths: Prompts whose candidates' lengths are all known.
    """

    labelled: int = 0
    usable: int = 0
    prompts: int = 0
    telling: int = 0
    pairs: int = 0
    agreeing: int = 0
    by_length: int = 0
    longer: int = 0
    picked: float = 0.0
    mean: float = 0.0
    longest: float = 0.0
    oracle: float = 0.0
    lengths: int = 0


def read_labels(
    extra: pa.StringArray, candidates: pa.ListArray, starts: np.ndarray, source: LabelSource
) -> dict[LabelKind, np.ndarray]:
    """Returns the labels of each kind: float64 [C], NaN where there is none; true is 1 and false 0.

    Where a candidate has several labels of a kind, their mean. A row whose labels are of another shape has none.
    """
    rows = np.flatnonzero(
        pc.fill_null(pc.match_substring(extra, f'"{source.key}"'), False).to_numpy(zero_copy_only=False)
    )
    if len(rows) == 0:
        return {}
    many = len(candidates.flatten())
    ids = candidates.flatten().field("candidate_id")
    decoder = _decoder(source)
    sums: defaultdict[LabelKind, np.ndarray] = defaultdict(lambda: np.zeros(many))
    counts: defaultdict[LabelKind, np.ndarray] = defaultdict(lambda: np.zeros(many, np.int64))
    for row, text in zip(rows.tolist(), extra.take(pa.array(rows)).to_pylist(), strict=True):
        start, end = int(starts[row]), int(starts[row + 1])
        place_of = {name: start + place for place, name in enumerate(ids.slice(start, end - start).to_pylist())}
        try:
            labels = decoder.decode(text).labels
        except msgspec.ValidationError:
            # Labels that the run carried unread need not be what this name stands for elsewhere.
            continue
        for label in labels or ():
            place = place_of.get(str(label.candidate_id))
            if place is None:
                continue
            for kind, value in _said(label):
                if kind in sums or len(sums) < KINDS:
                    sums[kind][place] += value
                    counts[kind][place] += 1
    with np.errstate(invalid="ignore"):
        return {kind: sums[kind] / counts[kind] for kind in sums}


def label_sums(
    label: np.ndarray, reward: np.ndarray, length: np.ndarray | None, group: np.ndarray, groups: int
) -> LabelSums:
    """Returns what is known without comparing pairs; see ``LabelSums``. All arrays but ``length`` have [C] values."""
    usable = ~np.isnan(label) & ~np.isnan(reward)
    many = np.bincount(group[usable], minlength=groups)
    use = usable & (many >= 2)[group]
    compact = np.cumsum(many >= 2) - 1
    of, prompts = compact[group[use]], int((many >= 2).sum())
    labels = label[use]
    best = group_best(labels, of, prompts)
    worst = -group_best(-labels, of, prompts)
    by_length = length is not None and not np.isnan(length[use]).any()
    return LabelSums(
        labelled=int((~np.isnan(label)).sum()),
        usable=int(usable.sum()),
        prompts=prompts,
        telling=int((best > worst).sum()),
        picked=float(_mean_at_top(labels, reward[use], of, prompts).sum()),
        mean=float((group_sums(labels, of, prompts) / many[many >= 2]).sum()),
        oracle=float(best.sum()),
        longest=float(_mean_at_top(labels, length[use], of, prompts).sum())
        if length is not None and by_length
        else 0.0,
        lengths=prompts if by_length else 0,
    )


def label_pairs(label: np.ndarray, reward: np.ndarray, length: np.ndarray | None) -> LabelSums:
    """Returns the part of the sums that comes from pairs.

    Args:
        label: int8 [P]: sign of the first label minus the second, 2 where one is not known.
        reward: Likewise for rewards.
        length: Likewise for lengths.
    """
    told = (np.abs(label) == 1) & (reward != 2)
    pairs, agreeing = _concordance(label, reward, told)
    if length is None:
        return LabelSums(pairs=pairs, agreeing=agreeing)
    by_length, longer = _concordance(label, length, told & (length != 2))
    return LabelSums(pairs=pairs, agreeing=agreeing, by_length=by_length, longer=longer)


def _concordance(label: np.ndarray, other: np.ndarray, told: np.ndarray) -> tuple[int, int]:
    product = label[told] * other[told]
    return int(told.sum()), int((product + 1).sum())


def _mean_at_top(values: np.ndarray, by: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Returns for each group the mean of the values where ``by`` is highest: float64 [groups]."""
    top = by == group_best(by, group, groups)[group]
    return np.asarray(group_sums(values * top, group, groups) / group_sums(top, group, groups))


@lru_cache(maxsize=4)
def _decoder(source: LabelSource) -> "msgspec.json.Decoder[Any]":
    """Reads nothing of a row's JSON but its labels, under the names that the input has for them."""
    said = {"candidate_id": str | int, "kind": str, "correct": bool, "preference": float, "score": float}
    label = msgspec.defstruct(
        "Label", [(name, type_ | None, None) for name, type_ in said.items()], rename={"candidate_id": source.id_field}
    )
    fields = [("labels", list[label] | None, None)]  # type: ignore[valid-type]
    return msgspec.json.Decoder(msgspec.defstruct("Extra", fields, rename={"labels": source.key}))


def _said(label: Any) -> Iterator[tuple[LabelKind, float]]:
    values = {"correct": label.correct, "preference": label.preference, "score": label.score}
    for field, value in values.items():
        if value is not None and np.isfinite(value):
            yield LabelKind(label.kind or "", field), float(value)
