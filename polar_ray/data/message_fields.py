"""What a message carries beside its role and its text, as far as a model would be shown it.

The texts of messages have columns of their own; everything else that the input says of them travels in ``extra``, under
``MESSAGE_FIELDS``. The names are those of OpenAI's chat messages and of what chat templates read.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polar_ray.data.strict_json import Json

MESSAGE_FIELDS = "_message_fields"
"""The key of ``extra`` under which further fields of messages are carried."""
CONTENT = "content"
"""The field under which the parts of a content are carried that are not text only."""
CALLS = frozenset(["tool_calls", "function_call"])
REASONING = frozenset(["reasoning_content", "reasoning", "reasoning_details", "thinking"])
SAYING = CALLS | REASONING | {CONTENT, "name", "tool_call_id", "tool_plan", "audio", "images", "refusal"}
"""Fields of a message that say something to a model. Others (ids, times, weights) say something about the message."""
TOOLS = ("tools", "functions")
"""Columns that hold the tools which a prompt offers."""


def is_there(value: Json) -> bool:
    """Whether a field holds anything: null, an empty text, list or object says nothing."""
    return value is not None and value != "" and value != [] and value != {}


def speaks_otherwise(message: dict[str, Json]) -> bool:
    """Whether a message without a content says something all the same, by a call, most often."""
    return any(name in SAYING and name != CONTENT and is_there(value) for name, value in message.items())


@dataclass(frozen=True)
class Said:
    """That a message says more than its text.

    Attributes:
        position: Of the message.
        field: The field that says it.
        words: What a sentence calls it.
    """

    position: int
    field: str
    words: str


class Carried:
    """What an ``extra`` says of messages and tools.

    Args:
        extra: The text of a group's or a candidate's ``extra``.
    """

    def __init__(self, extra: str) -> None:
        # Only names are looked at; Python refuses to read an integer of 5,000 digits.
        self._fields: dict[str, Any] = json.loads(extra, parse_int=str, parse_float=str, parse_constant=str)

    def of(self, whose: str) -> list[Said]:
        """Returns what messages (of the ``prompt``, or a candidate's ``messages``) say beside their text."""
        return _saying(self._messages(whose))

    def of_references(self) -> list[Said]:
        """Returns what ``of`` does for all references together."""
        references = self._messages("references")
        return [found for reference in references for found in _saying(reference or [])]

    def tools(self) -> str | None:
        """Returns the name of the column in which tools are offered, if there is one with any."""
        return next((name for name in TOOLS if _offers(self._fields.get(name))), None)

    def _messages(self, whose: str) -> list[Any]:
        fields = self._fields.get(MESSAGE_FIELDS)
        found = fields.get(whose) if isinstance(fields, dict) else None
        # A column of the input may have this name and hold anything.
        return found if isinstance(found, list) else []


def _saying(messages: Sequence[Any]) -> list[Said]:
    return [
        Said(position, name, _called(name, value))
        for position, fields in enumerate(messages)
        if isinstance(fields, dict)
        for name, value in sorted(fields.items())
        if name in SAYING and is_there(value)
    ]


def _called(name: str, value: Json) -> str:
    if name != CONTENT or not isinstance(value, list):
        return name
    types = dict.fromkeys(str(part.get("type")) for part in value if isinstance(part, dict))
    return f"content of type {', '.join(kind for kind in types if kind != 'text') or 'text'}"


def _offers(value: Json) -> bool:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value, parse_int=str, parse_float=str, parse_constant=str)
        except ValueError:
            return False
    return isinstance(value, list) and any(isinstance(tool, dict) for tool in value)
