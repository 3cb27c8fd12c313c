"""The group: one prompt, its references and its candidates.

A group is a row of every table in polar_ray. In Arrow it has ``GROUP_SCHEMA``; in Python it is a ``Group``.
Both hold the same values, and the two functions at the end turn one into the other.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
import pyarrow as pa


class Message(msgspec.Struct, frozen=True, gc=False):
    """One turn of a conversation."""

    role: str
    content: str


class Candidate(msgspec.Struct, frozen=True):
    """One generation for a prompt.

    Attributes:
        candidate_id: Unique within its group.
        messages: The generation; one assistant message, or a whole trajectory.
        model: Name of the model that wrote it, where the input says so.
        extra: Whatever else the input carried for this candidate, as the text of one JSON object.
    """

    candidate_id: str
    messages: tuple[Message, ...]
    model: str | None = None
    extra: str | None = None

    @property
    def text(self) -> str:
        """The contents of all messages, joined by newlines."""
        return "\n".join(message.content for message in self.messages)


class Group(msgspec.Struct, frozen=True):
    """One prompt with its references and candidates: the unit that flows through a run.

    Attributes:
        prompt_id: Unique within a run.
        prompt: The conversation so far.
        references: None, one or several good answers, each a list of messages.
        candidates: The generations to score, at least one.
        extra: Whatever else the input row carried, as the text of one JSON object.
    """

    prompt_id: str
    prompt: tuple[Message, ...]
    references: tuple[tuple[Message, ...], ...]
    candidates: tuple[Candidate, ...]
    extra: str | None = None


MESSAGE = pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])
MESSAGES = pa.list_(MESSAGE)
CANDIDATE = pa.struct(
    [
        pa.field("candidate_id", pa.string()),
        pa.field("messages", MESSAGES),
        pa.field("model", pa.string()),
        pa.field("extra", pa.string()),
    ]
)
GROUP_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string()),
        pa.field("prompt", MESSAGES),
        pa.field("references", pa.list_(MESSAGES)),
        pa.field("candidates", pa.list_(CANDIDATE)),
        pa.field("extra", pa.string()),
    ]
)


def groups_to_table(groups: Iterable[Group]) -> pa.Table:
    """Returns the groups as an Arrow table with ``GROUP_SCHEMA``, one row per group."""
    rows: list[dict[str, Any]] = [msgspec.to_builtins(group) for group in groups]
    return pa.Table.from_pylist(rows, schema=GROUP_SCHEMA)


def table_to_groups(table: pa.Table) -> list[Group]:
    """Returns the rows of a table that has (at least) the columns of ``GROUP_SCHEMA`` as groups."""
    rows = table.select(GROUP_SCHEMA.names).to_pylist()
    return msgspec.convert(rows, list[Group])
