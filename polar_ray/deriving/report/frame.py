"""A frame: what a report needs of a unit's rows, as flat NumPy arrays, one value per candidate."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.arrays import flat, lengths_of, offsets
from polar_ray.data.status import Status
from polar_ray.deriving.block import Block, block_of
from polar_ray.deriving.report.labels import LabelKind, read_labels
from polar_ray.deriving.report.sources import Sources

STATUSES = tuple(status.value for status in Status)


@dataclass(frozen=True)
class Frame:
    """G groups with C candidates in all.

    Attributes:
        blocks: The rewards of each scorer.
        statuses: int64 [C] for each scorer: places in ``STATUSES``, one more where the status is another.
        model: int64 [C]: places among the models, one more where it is none of them.
        lengths: For each scorer by unit (``characters``, ``tokens``): float64 [C], NaN where it is not known.
        labels: float64 [C] by kind of label, NaN where there is none.
        errors: Error messages of each scorer: string [C]; None where they are not read.
    """

    blocks: tuple[Block, ...]
    statuses: tuple[np.ndarray, ...]
    model: np.ndarray
    lengths: tuple[dict[str, np.ndarray], ...]
    labels: dict[LabelKind, np.ndarray]
    errors: tuple[pa.StringArray | None, ...]

    @property
    def sizes(self) -> np.ndarray:
        """int64 [G]: candidates of each group."""
        return self.blocks[0].sizes

    @property
    def starts(self) -> np.ndarray:
        """int64 [G + 1]: the first candidate of each group, and C."""
        return self.blocks[0].starts

    @property
    def group(self) -> np.ndarray:
        """int64 [C]: the group of each candidate."""
        return self.blocks[0].group


def frame_of(table: pa.Table, sources: Sources, models: tuple[str, ...]) -> Frame:
    """Takes the columns of a score table apart."""
    blocks = tuple(block_of(table, scorer.wanted) for scorer in sources.scorers)
    candidates = flat(table.column("candidates")) if "candidates" in table.column_names else None
    many = len(blocks[0].reward)
    characters = {"characters": _characters(candidates)} if sources.text and candidates is not None else {}
    lengths = []
    for block in blocks:
        tokens = {} if block.tokens is None else {"tokens": np.where(block.tokens > 0, block.tokens, np.nan)}
        lengths.append(characters | tokens)
    return Frame(
        blocks=blocks,
        statuses=tuple(_codes(_values(table, scorer.wanted.status), STATUSES) for scorer in sources.scorers),
        model=_codes(pc.fill_null(candidates.flatten().field("model"), ""), models)
        if sources.model and candidates is not None
        else np.zeros(many, np.int64),
        lengths=tuple(lengths),
        labels=read_labels(flat(table.column("extra")), candidates, blocks[0].starts, sources.labels)
        if sources.labels and candidates is not None
        else {},
        errors=tuple(
            _values(table, scorer.error) if scorer.error and sources.text else None for scorer in sources.scorers
        ),
    )


def _values(table: pa.Table, column: str) -> pa.Array:
    return flat(table.column(column)).flatten()


def _codes(values: pa.Array, names: tuple[str, ...]) -> np.ndarray:
    """int64: the place of each value among the names, one more than there are for any other."""
    places = pc.index_in(values, pa.array(names, pa.string()))
    return np.asarray(pc.fill_null(places, len(names)).to_numpy(zero_copy_only=False), np.int64)


def _characters(candidates: pa.ListArray) -> np.ndarray:
    """float64 [C]: Unicode characters of each candidate's text, which joins its messages by newlines."""
    messages = candidates.flatten().field("messages")
    counts = lengths_of(messages)
    contents = pc.fill_null(pc.utf8_length(messages.flatten().field("content")), 0)
    reached = offsets(np.asarray(contents.to_numpy(zero_copy_only=False), np.int64))
    ends = offsets(counts)
    return np.asarray(reached[ends[1:]] - reached[ends[:-1]] + np.maximum(counts - 1, 0), np.float64)
