"""What goes between a chat template and the process that runs it."""

import pickle
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # The process needs none of what groups need.
    from polar_ray.data.group import Message

_HEAD = struct.Struct(">BQ")
"""Before each text: its outcome, and its size in bytes."""


class Outcome(IntEnum):
    """What became of a conversation; each comes with a text."""

    RENDERED = 0
    """The text."""
    REFUSED = 1
    """The template's own words."""
    FAILED = 2
    """The exception."""
    CLOCK = 3
    """It asked for today's date."""
    MEMORY = 4
    """It wanted more than there is for it."""
    TOO_LONG = 5
    """The number of characters, and how many may be."""
    INVALID = 6
    """What is wrong with the template itself."""
    CHANCE = 7
    """The template uses chance."""


@dataclass(frozen=True)
class Template:
    """A template with what it may read beside the messages.

    Attributes:
        text: The Jinja source.
        variables: By name; ``strftime_now`` is the date that it gets as today's, or None where it may not ask.
    """

    text: str
    variables: Mapping[str, Any]


def pack_request(template: bytes, conversations: "Sequence[Sequence[Message]]") -> bytes:
    """Returns a request, beginning with a pickled template. Texts that conversations share go over once."""
    turns = [[(message.role, message.content) for message in messages] for messages in conversations]
    return struct.pack(">Q", len(template)) + template + pickle.dumps(turns, pickle.HIGHEST_PROTOCOL)


def unpack_request(request: bytes) -> tuple[bytes, list[list[tuple[str, str]]]]:
    """Returns what ``pack_request`` was given, messages as pairs. The process trusts the one that asks it."""
    (size,) = struct.unpack_from(">Q", request)
    return request[8 : 8 + size], pickle.loads(memoryview(request)[8 + size :])


def pack_answer(results: Iterable[tuple[Outcome, str]]) -> bytes:
    """Returns outcomes and their texts as bytes."""
    encoded = [(outcome, text.encode("utf-8", "surrogatepass")) for outcome, text in results]
    return b"".join(part for outcome, data in encoded for part in (_HEAD.pack(outcome, len(data)), data))


def unpack_answer(answer: bytes) -> list[tuple[Outcome, str]]:
    """Returns what ``pack_answer`` was given. What it comes from is not trusted, so no object is made of it."""
    results, at = [], 0
    while at < len(answer):
        outcome, size = _HEAD.unpack_from(answer, at)
        at += _HEAD.size
        results.append((Outcome(outcome), str(memoryview(answer)[at : at + size], "utf-8", "surrogatepass")))
        at += size
    return results
