"""A block: rows of a score table as flat NumPy arrays, one value per candidate, group after group."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.arrays import flat, lengths_of, offsets
from polar_ray.data.status import Status
from polar_ray.deriving.wanted import Wanted


@dataclass(frozen=True)
class Block:
    """G groups with C candidates in all.

    Attributes:
        prompt_ids: string [G].
        sizes: int64 [G], candidates of each group.
        reward: float64 [C], NaN where there is none.
        truncated: bool [C], whether the model saw less than all of it.
        tokens: int64 [C], 0 where it is not known; None where nobody asked for it.
        uncertainty: float64 [C], standard deviation of the reward or NaN; None where nobody asked for it.
        others: float64 [C], rewards of other scorers by name, NaN where there is none.
        parts: float64 [C], rewards of the scorers that are combined, by name, NaN where there is none.
        disagreement: float64 [C] of the combined scorers, NaN where it is not known; None where none are combined.
        unjoined: bool [C], candidates that a joined table lacks; None where there are none.
        reference_reward: float64 [G], NaN where there is none; None where it is not in a column.
        is_reference: bool [C], whether the candidate stands for the reference.
    """

    prompt_ids: pa.StringArray
    sizes: np.ndarray
    reward: np.ndarray
    truncated: np.ndarray
    tokens: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    others: dict[str, np.ndarray] = field(default_factory=dict)
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    disagreement: np.ndarray | None = None
    unjoined: np.ndarray | None = None
    reference_reward: np.ndarray | None = None
    is_reference: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 [G + 1]: the first candidate of each group, and C."""
        return offsets(self.sizes)

    @cached_property
    def group(self) -> np.ndarray:
        """int64 [C]: the group of each candidate."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def count(self, mask: np.ndarray) -> np.ndarray:
        """Returns how many candidates of each group are marked: int64 [G] for bool [C]."""
        marked = offsets(mask)
        return np.asarray(marked[self.starts[1:]] - marked[self.starts[:-1]])


def threshold(reward: float) -> float:
    """Returns a threshold as a float32 holds it, as rewards do: a reward that is shown as 0.7 is at least 0.7."""
    return float(np.float32(reward))


def block_of(table: pa.Table, wanted: Wanted, unjoined: np.ndarray | None = None) -> Block:
    """Takes the wanted columns of a score table apart.

    Where scorers are combined, the rewards are those of the first until ``combine.combined`` has made one of them.
    """
    rewards = flat(table.column(wanted.reward))
    statuses = [wanted.status, *(scorer.status for scorer in wanted.combined)]
    truncated = [_is_truncated(flat(table.column(column)).flatten()) for column in dict.fromkeys(statuses)]
    others = {name: _floats(flat(table.column(column)).flatten()) for name, column in wanted.others}
    parts = {scorer.name: _floats(flat(table.column(scorer.reward)).flatten()) for scorer in wanted.combined}
    return Block(
        prompt_ids=flat(table.column("prompt_id")),
        sizes=lengths_of(rewards),
        reward=_floats(rewards.flatten()),
        truncated=np.logical_or.reduce(truncated),
        tokens=None if wanted.tokens is None else _integers(flat(table.column(wanted.tokens)).flatten()),
        uncertainty=None if wanted.uncertainty is None else _floats(flat(table.column(wanted.uncertainty)).flatten()),
        others=others,
        parts=parts,
        unjoined=unjoined,
        reference_reward=None
        if wanted.reference_column is None
        else _floats(flat(table.column(wanted.reference_column))),
        is_reference=None if wanted.reference_candidate is None else _is_reference(table, *wanted.reference_candidate),
    )


def _is_truncated(status: pa.Array) -> np.ndarray:
    truncated = pc.fill_null(pc.equal(status, Status.TRUNCATED.value), False)
    return np.asarray(truncated.to_numpy(zero_copy_only=False), bool)


def _is_reference(table: pa.Table, field_name: str, value: str) -> np.ndarray:
    named = flat(table.column("candidates")).flatten().field(field_name)
    return np.asarray(pc.fill_null(pc.equal(named, value), False).to_numpy(zero_copy_only=False), bool)


def _floats(values: pa.Array) -> np.ndarray:
    """float64, NaN for what is null or not finite: neither is a reward."""
    numbers = pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _integers(values: pa.Array) -> np.ndarray:
    return np.asarray(pc.fill_null(values.cast(pa.int64()), 0).to_numpy(zero_copy_only=False))
