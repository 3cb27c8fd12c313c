"""Text from data on its way to a terminal, where some characters are commands."""

import sys
import traceback
import unicodedata
from types import TracebackType
from typing import TextIO

_KEPT = frozenset("\n\t\u200c\u200d")
"""Line ends and tabs; and the joiners, without which Persian, Hindi and emoji look otherwise."""
_COMMANDS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of what is no visible text: controls (ESC and the C1 codes among them), formats (the overrides
of the direction of writing, and tags that nobody sees), halves of pairs, and separators that end a line."""


def printable(text: str, *, lines: bool = True) -> str:
    """Returns a text in which nothing commands a terminal: what would stands there as an escape, such as ``\\x1b``.

    All that comes from rows, file names, tables and models goes through here on its way to a terminal, in whatever
    sentence it stands.

    Args:
        text: What is to be printed.
        lines: Line ends and tabs stay; without, they too become escapes, so that a name stays in its line.

    Example:
        >>> printable("red: \\x1b[31m")
        'red: \\\\x1b[31m'
    """
    if text.isascii() and text.isprintable():
        return text
    if lines:
        text = text.replace("\r\n", "\n")
    kept = _KEPT if lines else _KEPT - {"\n", "\t"}
    return "".join(
        char if char in kept or unicodedata.category(char) not in _COMMANDS else _escaped(char) for char in text
    )


def say(text: str, file: TextIO | None = None) -> None:
    """Prints a text that may hold data, and flushes; to standard output, unless told otherwise."""
    print(printable(text), file=file or sys.stdout, flush=True)


def print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints an error that nobody expected as Python does; its message may hold data. For ``sys.excepthook``."""
    say("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"), sys.stderr)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
