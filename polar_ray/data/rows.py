"""Rows: from a decoded JSON object to a group, or to one candidate of a group.

| field | may be | otherwise |
| --- | --- | --- |
| prompt_id | a string; an integer (its decimal text); no key at all (derived from the content) | null, blank, float, \
bool: dead letter |
| prompt | a string (one ``user`` message); a list of messages, not empty | dead letter |
| reference | a string (one ``assistant`` message, also when empty); a list of messages; null, ``[]`` or no key: \
none | dead letter |
| references | a list of strings and lists of messages; null, ``[]`` or no key: none | dead letter |
| candidates | a list, not empty, of objects or strings | dead letter of the whole row |
| candidate_id | a string; an integer; null or no key (derived from the content) | dead letter |
| messages | a string (one ``assistant`` message, also when empty); a list of messages, not empty | dead letter |
| model | a string, null or no key | dead letter |
| message | ``role`` a string, ``content`` a string or a list of parts; a role may be left out where there is one \
message only, and the content where the message has ``tool_calls`` or says something otherwise | dead letter |
| part | an object with a ``type``; the ``text`` of those of type ``text`` is joined without anything between, and of \
a content with other parts all are carried | dead letter |
| labels | a list of objects (candidate id, ``kind`` a string, ``correct`` a bool, ``preference`` and ``score`` \
numbers, each of them optional), null or no key | dead letter |

Roles, their order, blank texts, control characters and Unicode forms are kept as they are: nothing is trimmed or
normalised. What has no place above is carried in ``extra``. Fields of a message other than role and content are
carried there too, as ``_message_fields``: an object that says whose messages they are, with a list as long as the
messages. Whether a scorer can show its model what they say is its own affair (``polar_ray.scorers.sight``).
"""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from polar_ray.data.dead_letters import BadRow, short
from polar_ray.data.message_fields import CONTENT, MESSAGE_FIELDS, is_there, speaks_otherwise
from polar_ray.data.strict_json import Json, encode_sorted, kind_of
from polar_ray.recipe.input import CandidateFields, Columns, Input

Messages = list[tuple[str, str]]
"""Role and content of each message."""

_INTEGER = re.compile(rb"-?\d+")
_ABSENT = object()


@dataclass(frozen=True)
class CandidateRow:
    """A candidate as the input has it; ``candidate_id`` is None where it is still to be derived."""

    candidate_id: str | None
    messages: Messages
    model: str | None
    extra: str | None


@dataclass(frozen=True)
class GroupRow:
    """A prompt with some of its candidates; ``prompt_id`` is None where it is still to be derived."""

    prompt_id: str | None
    prompt: Messages
    references: list[Messages]
    candidates: list[CandidateRow]
    extra: str | None


class RowReader:
    """Reads rows with the column names of a recipe."""

    def __init__(self, config: Input) -> None:
        self._columns = config.columns
        self._fields = config.candidate_fields
        self._group_columns = group_columns(config.columns)
        self._candidate_fields = frozenset(candidate_field_names(config.candidate_fields))
        self._candidate_columns = frozenset(
            [*shared_columns(config.columns), *candidate_field_names(config.candidate_fields)]
        )

    def group(self, row: dict[str, Json]) -> GroupRow:
        """Reads a row of the ``groups`` layout.

        Raises:
            BadRow: The row cannot become a group.
        """
        prompt_id, prompt, references, message_fields = self._shared(row)
        name = self._columns.candidates
        values = row.get(name, _ABSENT)
        if not isinstance(values, list):
            raise _wrong("candidates", name, values, "a list")
        if not values:
            raise BadRow("schema", "candidates_empty", f"{name} is an empty list, so there is nothing to score")
        candidates = [self._candidate(value, position) for position, value in enumerate(values)]
        if self._columns.labels is not None:
            _check_labels(row.get(self._columns.labels), self._columns.labels, self._fields.candidate_id)
        return GroupRow(prompt_id, prompt, references, candidates, _extra(row, self._group_columns, message_fields))

    def candidate(self, row: dict[str, Json]) -> GroupRow:
        """Reads a row of a row-per-candidate layout: a group with one candidate, and no ``extra`` of its own.

        Raises:
            BadRow: The row cannot become a candidate.
        """
        prompt_id, prompt, references, message_fields = self._shared(row)
        candidate = self._candidate_of(row, "", self._candidate_columns)
        return GroupRow(prompt_id, prompt, references, [candidate], _extra({}, frozenset(), message_fields))

    def _shared(self, row: dict[str, Json]) -> tuple[str | None, Messages, list[Messages], dict[str, Json]]:
        columns = self._columns
        prompt_id = _id(row.get(columns.prompt_id, _ABSENT), "prompt_id", columns.prompt_id, null_is_absent=False)
        prompt, fields = _messages(row.get(columns.prompt, _ABSENT), "prompt", columns.prompt, "user")
        references, reference_fields = self._references(row)
        message_fields: dict[str, Json] = {}
        if fields:
            message_fields["prompt"] = fields
        if any(reference_fields):
            message_fields["references"] = reference_fields
        return prompt_id, prompt, references, message_fields

    def _references(self, row: dict[str, Json]) -> tuple[list[Messages], list[Json]]:
        name, names = self._columns.reference, self._columns.references
        one, several = row.get(name), row.get(names)
        if several is not None and not isinstance(several, list):
            raise _wrong("references", names, several, "a list")
        if one is None or one == []:
            pairs = [
                _messages(value, "reference", f"{names}[{position}]", "assistant")
                for position, value in enumerate(several or [])
            ]
        elif several:
            raise BadRow("schema", "reference_ambiguous", f"both {name} and {names} hold something; use one of them")
        else:
            pairs = [_messages(one, "reference", name, "assistant")]
        return [messages for messages, _ in pairs], [fields for _, fields in pairs]

    def _candidate(self, value: Json, position: int) -> CandidateRow:
        if isinstance(value, str):
            return CandidateRow(None, [("assistant", value)], None, None)
        where = f"{self._columns.candidates}[{position}]"
        if not isinstance(value, dict):
            raise _wrong("candidate", where, value, "an object or a string")
        return self._candidate_of(value, f"{where}.", self._candidate_fields)

    def _candidate_of(self, value: dict[str, Json], where: str, known: frozenset[str]) -> CandidateRow:
        names = self._fields
        candidate_id = _id(
            value.get(names.candidate_id), "candidate_id", f"{where}{names.candidate_id}", null_is_absent=True
        )
        messages, fields = _messages(
            value.get(names.messages, _ABSENT), "messages", f"{where}{names.messages}", "assistant"
        )
        model = value.get(names.model)
        if model is not None and not isinstance(model, str):
            raise _wrong("model", f"{where}{names.model}", model, "a string")
        if len(value) <= len(known) and value.keys() <= known and fields is None:
            return CandidateRow(candidate_id, messages, model, None)
        return CandidateRow(candidate_id, messages, model, _extra(value, known, {"messages": fields} if fields else {}))


def shared_columns(columns: Columns) -> list[str]:
    """Returns the names of the columns of a prompt, in any layout."""
    return [columns.prompt_id, columns.prompt, columns.reference, columns.references]


def group_columns(columns: Columns) -> frozenset[str]:
    """Returns the names of the columns that are read in the ``groups`` layout; the others go to ``extra``."""
    return frozenset([*shared_columns(columns), columns.candidates])


def candidate_field_names(fields: CandidateFields) -> list[str]:
    """Returns the names of a candidate's fields; the others go to its ``extra``."""
    return [fields.candidate_id, fields.messages, fields.model]


def _id(value: Any, what: str, name: str, *, null_is_absent: bool) -> str | None:
    if value is _ABSENT or (value is None and null_is_absent):
        return None
    if isinstance(value, str):
        if not value.strip():
            raise BadRow("schema", f"{what}_empty", f"{name} is {short(value)}; give an id, or leave the key out")
        return value
    if isinstance(value, msgspec.Raw) and _INTEGER.fullmatch(text := bytes(value)):
        return text.decode()
    raise _wrong(what, name, value, "a string or an integer")


def _messages(value: Any, what: str, name: str, role: str) -> tuple[Messages, list[Json] | None]:
    """Returns the messages, and their further fields if there are any."""
    if isinstance(value, str):
        return [(role, value)], None
    if not isinstance(value, list):
        raise _wrong(what, name, value, "a string or a list of messages")
    if not value:
        raise BadRow("schema", f"{what}_empty", f"{name} is an empty list of messages")
    messages: Messages = []
    only_known = True
    for position, message in enumerate(value):
        if not isinstance(message, dict):
            raise _wrong(what, f"{name}[{position}]", message, "an object with role and content")
        content = message.get("content", _ABSENT)
        if not isinstance(content, str):
            if content is _ABSENT or not is_there(content):
                content = _nothing(message, content, f"{name}[{position}].content")
            else:
                content, text_only = _joined_parts(content, f"{name}[{position}].content")
                only_known &= text_only
        message_role = message.get("role")
        if message_role is None:
            if len(value) > 1:
                raise BadRow("schema", "role_missing", f"{name}[{position}] has no role, and is not the only message")
            message_role = role
        elif not isinstance(message_role, str):
            raise _wrong("role", f"{name}[{position}].role", message_role, "a string")
        messages.append((message_role, content))
        if len(message) > 2 or "content" not in message or (len(message) == 2 and "role" not in message):
            only_known = False
    if only_known:
        return messages, None
    fields = [_further(message) for message in value]
    return messages, fields if any(fields) else None


_MESSAGE_KEYS = frozenset(["role", "content"])
_EXPECTED = "a string or a list of text parts"


def _further(message: dict[str, Json]) -> Json:
    # A null is what Parquet gives to every message where only some have the field.
    fields = {key: item for key, item in message.items() if key not in _MESSAGE_KEYS and item is not None}
    content = message.get("content")
    if isinstance(content, list) and content and not all(map(_is_text, content)):
        fields[CONTENT] = content
    return fields or None


def _nothing(message: dict[str, Json], content: Any, name: str) -> str:
    """Returns the text of a message whose content is not there: none, if the message says something otherwise."""
    if speaks_otherwise(message):
        return ""
    raise _wrong("content", name, content, _EXPECTED)


def _joined_parts(content: Any, name: str) -> tuple[str, bool]:
    """Joins the text parts of OpenAI's content lists (https://platform.openai.com/docs/api-reference/chat).

    Returns:
        Their text, and whether that is all.
    """
    if not isinstance(content, list):
        raise _wrong("content", name, content, _EXPECTED)
    texts = []
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise BadRow("schema", "content_type", f"{name} has a part that is none: {short(part)}")
        if part["type"] == "text":
            if not isinstance(part.get("text"), str):
                raise BadRow("schema", "content_type", f"{name} has a text part without a text: {short(part)}")
            texts.append(part["text"])
    return "".join(texts), all(map(_is_text, content))


def _is_text(part: dict[str, Json]) -> bool:
    """Whether a part says nothing but its text; a null is what Parquet gives to fields of other parts."""
    return part["type"] == "text" and all(part[key] is None for key in part if key not in ("type", "text"))


def _check_labels(value: Json, name: str, id_field: str) -> None:
    if value is None:
        return
    expected = f"a list of label objects; to carry {name} unread, set input.columns.labels to null"
    if not isinstance(value, list):
        raise _wrong("labels", name, value, expected)
    for position, label in enumerate(value):
        if not isinstance(label, dict):
            raise _wrong("labels", f"{name}[{position}]", label, expected)
        for field, types in ((id_field, (str, msgspec.Raw)), ("kind", str), ("correct", bool), *_LABEL_NUMBERS):
            item = label.get(field)
            if item is not None and not isinstance(item, types):
                raise _wrong("labels", f"{name}[{position}].{field}", item, expected)


_LABEL_NUMBERS = (("preference", msgspec.Raw), ("score", msgspec.Raw))


def _extra(row: dict[str, Json], known: frozenset[str], message_fields: dict[str, Json]) -> str | None:
    extra = {key: value for key, value in row.items() if key not in known}
    if message_fields:
        extra[MESSAGE_FIELDS] = message_fields
    if not extra:
        return None
    return encode_sorted(extra)


def _wrong(what: str, name: str, value: Any, expected: str) -> BadRow:
    if value is _ABSENT:
        return BadRow("schema", f"{what}_missing", f"the row has no {name}")
    if value is None:
        return BadRow("schema", f"{what}_null", f"{name} is null, not {expected}")
    return BadRow("schema", f"{what}_type", f"{name} is {kind_of(value)}, not {expected}")
