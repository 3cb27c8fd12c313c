"""Regular expressions that see data: what they find is what a plain reading finds, and none backtracks without end.

Each is run, under a limit of processor time that an honest one is far from, on texts made of what it looks for.
"""

import itertools
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from types import FrameType

import pytest
from fuzzing import fuzz
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_ray.data import generations, rows, strict_json
from polar_ray.errors import CheckpointError
from polar_ray.models import adapter, control_tokens
from polar_ray.models.pattern import matches
from polar_ray.scorers import final_answer, math_verifier

COMMAND = re.compile(r"-?\\(?:[dt]?frac|sqrt|pi|infty)")
"""How a bare command begins; after it stands no letter, digit or underscore."""


def is_bare_command(text: str) -> bool:
    """Whether a text is a command, then at most 80 of: commands, letters that stand alone, other characters."""
    begins = COMMAND.match(text)
    if begins is None or (text[begins.end() : begins.end() + 1].isalnum() or text[begins.end() :].startswith("_")):
        return False
    pieces, letters, after_backslash = 0, 0, False
    for char in text[begins.end() :] + "\0":
        if char.isascii() and char.isalpha():
            letters += 1
            continue
        if letters > 1 and not after_backslash:
            return False
        # The name of a command belongs to its backslash, which was counted already.
        pieces += letters > 0 and not after_backslash
        letters, after_backslash = 0, char == "\\"
        pieces += 1
        if char == "\n":
            return False
    return pieces - 1 <= 80


@pytest.mark.parametrize("start", ["\\frac", "-\\pi", "\\tfrac"])
def test_bare_commands_are_those_of_a_plain_reading(start: str) -> None:
    for length in range(7):
        for ends in itertools.product("\\ab{_\n", repeat=length):
            text = start + "".join(ends)
            assert (final_answer._BARE_COMMAND.fullmatch(text) is not None) == is_bare_command(text), text


@settings(deadline=None)
@given(st.text("\\abz1{}^ é箱\n", max_size=200))
def test_longer_ones_too(text: str) -> None:
    whole = f"\\sqrt{text}"
    assert (final_answer._BARE_COMMAND.fullmatch(whole) is not None) == is_bare_command(whole)


@contextmanager
def processor_time(seconds: float) -> Iterator[None]:
    """Raises TimeoutError once so much processor time is used; Python's engine looks for signals while it matches."""

    def end(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def test_an_expression_that_backtracks_is_found() -> None:
    # The one that stalled runs: each command could be cut in several ways.
    ambiguous = re.compile(r"\\frac\b(?:\\[A-Za-z]+|[^A-Za-z\n]|[A-Za-z](?![A-Za-z])){0,80}")
    with pytest.raises(TimeoutError), processor_time(0.2):
        ambiguous.fullmatch("\\frac" * 40 + " ab")


EXPRESSIONS = [
    (f"{module.__name__}.{name}", value)
    for module in (final_answer, math_verifier, generations, rows, strict_json, adapter, control_tokens)
    for name, value in vars(module).items()
    if isinstance(value, re.Pattern)
] + [("the unit after a formula", re.compile(final_answer._UNIT + "?"))]
OF_TEXTS = [value for value in vars(final_answer).values() if isinstance(value, re.Pattern)]
PIECES = [
    *("\\frac", "\\pi", "\\x", "\\", "{", "}", "$", "$$", "\\[", "\\(", "\\boxed{", "=", "-", "+", "/", "^", "%", " "),
    *(
        "\n",
        "\t",
        "*",
        "_",
        "#",
        "####",
        "1",
        "11",
        "1,111",
        ",111",
        ".",
        ".5",
        ":",
        "a",
        "A",
        "bc",
        "answer",
        "Answer:",
    ),
    *(
        "final",
        "respuesta",
        "ответ",
        "答案",
        "答",
        "答え",
        "is",
        "\u00a0",
        "é",
        "箱",
        "￥",
        "<|",
        "|>",
        "[A_1",
        "</s>",
        "and",
    ),
    *("/generations/1", ".lora_A.weight", "\\ud800", "\\udc00", "_1]", "<start_of_", "'", "\0"),
]


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS, ids=[name for name, _ in EXPRESSIONS])
def test_no_expression_that_sees_data_backtracks_without_end(name: str, expression: "re.Pattern[str]") -> None:
    def check(chance: Random) -> None:
        parts = chance.choices(PIECES, k=chance.choice((1, 1, 2, 3, 5)))
        text = chance.choice(PIECES) + "".join(parts) * chance.choice((30, 300)) + chance.choice(("", *PIECES))
        # No more than the longest that final_answer looks at.
        subject = text[: final_answer.TAIL]
        data = subject.encode("utf-8", "surrogatepass") if isinstance(expression.pattern, bytes) else subject
        with processor_time(3):
            expression.fullmatch(data)
            # Those of other modules are matched with whole names only.
            if expression in OF_TEXTS:
                expression.search(data)

    fuzz(name, 60, check)


@pytest.mark.parametrize("pattern", ["(a|a)*$", "(a|aa)+$"])
def test_an_adapters_pattern_that_takes_too_long_is_an_error(pattern: str) -> None:
    with pytest.raises(CheckpointError, match="target_modules is a regular expression that takes too long"):
        matches(pattern, "a" * 59 + "!", what="target_modules", whole=True)


@pytest.mark.parametrize(
    "pattern", ["(", "[z-a]", "(?P<x>a)(?P<x>b)" + ")", "(" * 4000 + ")" * 4000, "a" * 10_001, "\\"]
)
def test_what_is_no_pattern_is_an_error(pattern: str) -> None:
    with pytest.raises(CheckpointError, match="regular expression"):
        matches(pattern, "model.layers.0", what="target_modules", whole=True)


def test_patterns_mean_what_they_mean_to_peft() -> None:
    names = ["model.layers.1.self_attn.q_proj", "model.layers.12.mlp.down_proj", "score", "a.score.b"]
    patterns = [r".*\.(self_attn\.[qv]|mlp\.down)_proj", r"(.*\.)?(score)$", r"^(?!.*attn).*proj$", r".*\.(\d+)\."]

    def check(chance: Random) -> None:
        name, pattern = chance.choice(names), chance.choice(patterns)
        for whole, plain in ((True, re.fullmatch), (False, re.match)):
            found, expected = matches(pattern, name, what="x", whole=whole), plain(pattern, name)
            assert (found and found.group()) == (expected and expected.group())

    fuzz("patterns", 100, check)
