"""The prompts that a person is shown, with texts cut so that the page stays small."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.data.arrays import flat
from polar_ray.data.parts import decoding
from polar_ray.data.storage import Storage
from polar_ray.deriving.rank import rank
from polar_ray.deriving.report.choosing import Chosen, Place
from polar_ray.deriving.report.labels import read_labels
from polar_ray.deriving.report.sources import Sources
from polar_ray.deriving.units import kept
from polar_ray.deriving.wanted import candidate_path

BYTES = 1_900_000
"""What all examples together may take of the page, encoded."""
BEST, MIDDLE, LAST = 12, 6, 6
"""Candidates of a prompt that are shown: the best, some in between, and the worst or failed ones."""
CUTS = (8000, 4000, 2000, 1000, 500, 250)
"""Characters after which texts are cut, tried in this order until the examples fit."""

Example = dict[str, Any]


@dataclass(frozen=True)
class Wish:
    """Rows of one part that are to be shown."""

    part: str
    rows: tuple[int, ...]


def wishes_of(chosen: Chosen) -> list[Wish]:
    """Returns the chosen rows by part, in the order of the table."""
    by_part: dict[str, list[int]] = {}
    for place in sorted(chosen.places()):
        by_part.setdefault(place.part, []).append(place.row)
    return [Wish(part, tuple(rows)) for part, rows in by_part.items()]


def read_examples(storage: Storage, sources: Sources, wish: Wish) -> list[tuple[Place, Example]]:
    """Reads the rows of one part, texts whole."""
    fields = ("candidate_id", "messages.list.element.role", "messages.list.element.content", "model")
    scores = [name for name in sources.columns if "." not in name]
    columns = [*scores, "prompt", "references", "input_file", "input_row", *map(candidate_path, fields)]
    with decoding(wish.part):
        table = kept(storage).read_with(
            wish.part, lambda stream: pq.ParquetFile(stream).read(columns=columns, use_threads=False)
        )
    rows = table.take(list(wish.rows)).combine_chunks()
    labels = _labels(rows, sources)
    ranks = {scorer.wanted.reward: rank(rows.column(scorer.wanted.reward)).to_pylist() for scorer in sources.scorers}
    examples = []
    for number, row in enumerate(rows.to_pylist()):
        own = {reward: lists[number] for reward, lists in ranks.items()}
        examples.append((Place(wish.part, wish.rows[number]), _example(row, own, labels[number], sources)))
    return examples


def arranged(found: dict[Place, Example], chosen: Chosen) -> list[Example]:
    """Returns the examples with their categories, by category and in order."""
    return [{"categories": categories, **found[place]} for place, categories in chosen.places().items()]


def fitted(examples: list[Example], most: int = BYTES) -> tuple[list[Example], int]:
    """Returns examples of which texts are cut, candidates and at last examples left out until they fit.

    Returns:
        The examples, and the characters after which a text is cut.
    """
    while True:
        for cut in CUTS:
            short = [_cut(example, cut) for example in examples]
            if len(msgspec.json.encode(short)) <= most:
                return short, cut
        examples = examples[: len(examples) * 3 // 4]


def _example(
    row: dict[str, Any], ranks: dict[str, list[Any]], labels: list[list[dict[str, Any]]], sources: Sources
) -> Example:
    first = ranks[sources.scorers[0].wanted.reward]
    order = sorted(range(len(first)), key=lambda place: (first[place] is None, first[place] or 0, place))
    if len(order) > BEST + MIDDLE + LAST:
        between = order[BEST:-LAST]
        spread = [between[len(between) * (2 * number + 1) // (2 * MIDDLE)] for number in range(MIDDLE)]
        order = [*order[:BEST], *spread, *order[-LAST:]]
    return {
        "id": row["prompt_id"],
        "from": None if row.get("input_file") is None else [row["input_file"], row["input_row"]],
        "prompt": row["prompt"],
        "references": row["references"],
        "of": len(first),
        "candidates": [_candidate(row, place, ranks, labels[place], sources) for place in order],
    }


def _candidate(
    row: dict[str, Any], place: int, ranks: dict[str, list[Any]], labels: list[dict[str, Any]], sources: Sources
) -> dict[str, Any]:
    candidate = row["candidates"][place]
    scores = []
    for scorer in sources.scorers:
        wanted = scorer.wanted
        further = {"tokens": wanted.tokens, "uncertainty": wanted.uncertainty, "error": scorer.error}
        values = {name: row[column][place] for name, column in further.items() if column is not None}
        scores.append(
            {
                "reward": row[wanted.reward][place],
                "rank": ranks[wanted.reward][place],
                "status": row[wanted.status][place],
                **{name: value for name, value in values.items() if value is not None},
            }
        )
    return {
        "id": candidate["candidate_id"],
        "model": candidate["model"],
        "messages": candidate["messages"],
        "scores": scores,
        "labels": labels,
    }


def _labels(rows: pa.Table, sources: Sources) -> list[list[list[dict[str, Any]]]]:
    """Returns the labels of each row's candidates."""
    candidates = flat(rows.column("candidates"))
    lengths = candidates.value_lengths().to_pylist()
    every: list[list[dict[str, Any]]] = [[] for _ in range(sum(lengths))]
    starts = [sum(lengths[:number]) for number in range(len(lengths) + 1)]
    if sources.labels:
        found = read_labels(flat(rows.column("extra")), candidates, np.array(starts), sources.labels)
        for kind, values in found.items():
            for labels, value in zip(every, values.tolist(), strict=True):
                if not math.isnan(value):
                    labels.append({"kind": kind.kind, "field": kind.field, "value": value})
    return [every[start:end] for start, end in pairwise(starts)]


def _cut(example: Example, most: int) -> Example:
    return {
        **example,
        "prompt": _cut_messages(example["prompt"], most),
        "references": [_cut_messages(reference, most) for reference in example["references"]],
        "candidates": [
            {**candidate, "messages": _cut_messages(candidate["messages"], most)} for candidate in example["candidates"]
        ],
    }


def _cut_messages(messages: list[dict[str, str]], most: int) -> list[dict[str, Any]]:
    """Cuts each text; one that was cut says how many characters it has. Of long conversations the end stays."""
    kept_messages = messages[-20:]
    left_out = [{"role": "", "content": f"({len(messages) - 20:,} earlier messages are left out)"}]
    return [
        *(left_out if len(messages) > 20 else []),
        *(
            {"role": one["role"], "content": one["content"]}
            if len(one["content"]) <= most
            else {"role": one["role"], "content": one["content"][:most], "characters": len(one["content"])}
            for one in kept_messages
        ),
    ]
