"""What data may say to a terminal: nothing that it obeys."""

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_ray.terminal import print_traceback, printable

COMMANDS = {
    "ESC": ("\x1b[31m", r"\x1b[31m"),
    "a title, ended by BEL": ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
    "CSI in one byte": ("\x9b2J", r"\x9b2J"),
    "a return to the line's start": ("right\rwrong", r"right\rwrong"),
    "backspaces": ("a\x08b", r"a\x08b"),
    "an override of the direction": ("a\u202eb\u2066c\u200fd", r"a\u202eb\u2066c\u200fd"),
    "tags that nobody sees": ("a\U000e0041", r"a\U000e0041"),
    "half of a pair": ("\ud800", r"\ud800"),
    "a line separator": ("a\u2028b", r"a\u2028b"),
}


@pytest.mark.parametrize(("text", "shown"), COMMANDS.values(), ids=COMMANDS)
def test_a_command_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "two\n\tlines",
        "= 10\u3000箱",
        "non\u00a0breaking",
        "नमस्\u200dते",
        "می\u200cخواهم",
        "👩\u200d🚀🇩🇪",
        "e\u0301",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_a_name_stays_in_its_line() -> None:
    assert printable("a\nb\tc", lines=False) == r"a\nb\tc"


def test_line_ends_of_windows_are_line_ends() -> None:
    assert printable("a\r\nb") == "a\nb"


@settings(deadline=None)
@given(st.text(st.characters()))
def test_no_text_commands_a_terminal(text: str) -> None:
    shown = printable(text)
    assert {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"} <= {"Cc", "Cf"}
    assert {char for char in shown if unicodedata.category(char) in ("Cc", "Cf")} <= set("\n\t\u200c\u200d")
    shown.encode()


def test_a_traceback_shows_data_as_an_escape(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise ValueError("prompt \x1b[2J")
    except ValueError:
        print_traceback(*sys.exc_info())  # type: ignore[arg-type]
    assert capsys.readouterr().err.endswith("ValueError: prompt \\x1b[2J\n")
