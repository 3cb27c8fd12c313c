"""What a scorer is: a group goes in, one score per candidate comes out.

A scorer comes in two parts, so that a model never waits for text: an ``Encoder`` (tokenizer only, runs in many
CPU tasks) turns groups into token ids, and a ``Scorer`` (holds the model, one per actor) turns ids into rewards.
Scorers that read text have no encoder.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.group import Group
from polar_ray.data.status import Status

if TYPE_CHECKING:
    from polar_ray.scorers.sight import Sight

ENCODED_SCHEMA = pa.schema(
    [
        # The row of the group in its table, the candidate in its group, the reference in its group.
        pa.field("group", pa.int32()),
        pa.field("candidate", pa.int32()),
        pa.field("reference", pa.int32()),
        # Null where the candidate cannot be scored; `status` and `error` then say why.
        pa.field("ids", pa.list_(pa.int32())),
        pa.field("status", pa.string()),
        pa.field("error", pa.string()),
    ]
)
"""One row per sequence to score, in the order of the groups, their candidates and their references.

``status`` is ``ok`` or ``truncated`` where there are ids. A candidate without a sequence (no reference, say) has one
row with null ids. ``reference`` is 0 where the scorer takes no reference.
"""


@dataclass(frozen=True)
class CandidateScore:
    """The score of one candidate, in Python.

    Attributes:
        reward: Null exactly when the status has no reward.
        status: Why there is this reward, or none.
        tokens: Tokens that the model was given for it, all references counted; null for scorers without tokens.
        error: The message, where the status is ``error``.
        extras: What the scorer adds, by name.
    """

    reward: float | None
    status: Status = Status.OK
    tokens: int | None = None
    error: str | None = None
    extras: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """The scores of all candidates of a table of groups, flat: candidates in order, groups in order.

    Attributes:
        reward: float32, null where the status has no reward.
        status: string, values of ``Status``.
        tokens: int32 or null.
        error: string or null.
        extras: Further float32 columns, by name.
    """

    reward: pa.Array
    status: pa.Array
    tokens: pa.Array
    error: pa.Array
    extras: dict[str, pa.Array] = field(default_factory=dict)

    @property
    def truncated(self) -> pa.Array:
        """bool: whether anything of the candidate's sequence was cut."""
        return pc.equal(self.status, Status.TRUNCATED.value)

    def __len__(self) -> int:
        return len(self.reward)

    def to_table(self) -> pa.Table:
        """Returns the columns as one table; ``from_table`` reads it back."""
        plain = {"reward": self.reward, "status": self.status, "tokens": self.tokens, "error": self.error}
        return pa.table({**plain, **self.extras})

    @staticmethod
    def from_table(table: pa.Table) -> "Scores":
        """Returns the scores that ``to_table`` wrote."""
        columns = {
            name: table.column(name).combine_chunks() if table.num_rows else pa.nulls(0, table.schema.field(name).type)
            for name in table.column_names
        }
        plain = {name: columns.pop(name) for name in ("reward", "status", "tokens", "error")}
        return Scores(**plain, extras=columns)

    @staticmethod
    def of(scores: list[CandidateScore], extras: tuple[str, ...] = ()) -> "Scores":
        """Builds the columns from Python scores. ``extras`` names the columns that the scorer adds."""
        return Scores(
            reward=pa.array([score.reward for score in scores], pa.float32()),
            status=pa.array([score.status.value for score in scores], pa.string()),
            tokens=pa.array([score.tokens for score in scores], pa.int32()),
            error=pa.array([score.error for score in scores], pa.string()),
            extras={name: pa.array([score.extras.get(name) for score in scores], pa.float32()) for name in extras},
        )


def error_text(error: Exception) -> str:
    """Returns what the ``error`` column says of an exception."""
    return encodable(f"{type(error).__name__}: {error}")


def encodable(text: str) -> str:
    """Returns a text with an escape for each half of a pair, which no table can hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class Encoder(Protocol):
    """Turns groups into the token ids that a scorer reads. Holds a tokenizer, no model."""

    @property
    def sight(self) -> "Sight":
        """What of messages beside their texts can be in the ids; the scorer that reads them has the same."""
        ...

    def encode(self, groups: pa.Table) -> pa.Table:
        """Returns a table with ``ENCODED_SCHEMA`` for a table with ``GROUP_SCHEMA``."""
        ...

    def decode(self, ids: np.ndarray) -> str:
        """Returns ids as text for a person to read, control tokens included."""
        ...


class Scorer(Protocol):
    """Turns groups into scores. Lives in an actor; making one loads the model and checks it."""

    extras: tuple[str, ...]
    """Names of the columns that this scorer adds."""

    @property
    def sight(self) -> "Sight":
        """What it sees of messages beside their texts."""
        ...

    def score_table(self, groups: pa.Table, encoded: pa.Table | None) -> Scores:
        """Scores a table with ``GROUP_SCHEMA``; ``encoded`` is what the encoder made of it, if there is one.

        The scores of a table depend on the table alone. An error that concerns one group becomes a status on
        that group's candidates; an error that would hit every group is raised.
        """
        ...

    def score(self, groups: list[Group]) -> list[list[CandidateScore]]:
        """Scores groups in Python: one list per group, aligned with its candidates."""
        ...
