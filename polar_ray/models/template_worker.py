"""The process in which chat templates run; ``chat_template`` starts it and asks it.

Beside the limits of its process a template has one of characters, for what it makes is kept and tokenized elsewhere.
"""

import json
import pickle
from collections.abc import Callable, Mapping
from datetime import date
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from polar_ray.models.rendering import Outcome, Template, pack_answer, unpack_request
from polar_ray.subprocesses.serve import serve

_LONGEST, _OF_A_MESSAGE, _OF_A_CHARACTER = 100_000, 1_000, 8
"""Characters that a template may make of no message at all, of each message, and of each of its characters. The longest
preambles of published templates are a tenth of the first."""
_LONGEST_WORDS = 30_000
"""Characters of an error's message."""

Render = Callable[[list[tuple[str, str]]], tuple[Outcome, str]]


def main() -> None:
    """Answers requests until standard input ends."""
    serve(_answer)


def _answer(request: bytes) -> bytes:
    template, conversations = unpack_request(request)
    render = _renderer(template)
    return pack_answer([render(messages) for messages in conversations])


@lru_cache(maxsize=1)
def _renderer(pickled: bytes) -> Render:
    """Returns the function that renders a conversation by a template, or that says what is wrong with it."""
    template: Template = pickle.loads(pickled)
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    del environment.globals["lipsum"]  # Prints random text.
    try:
        tree = environment.parse(template.text)
        compiled = environment.from_string(template.text)
    except jinja2.TemplateError as error:
        return _always(Outcome.INVALID, _words(error))
    except Exception as error:
        # Whatever Jinja's parser and Python's compiler raise is about the text, which is from elsewhere.
        return _always(Outcome.INVALID, f"{type(error).__name__}: {_words(error)}")
    if any(filtered.name == "random" for filtered in tree.find_all(nodes.Filter)):
        return _always(Outcome.CHANCE, "")
    variables = {**template.variables, "strftime_now": _clock(template.variables["strftime_now"])}
    most = _LONGEST + sum(len(str(value)) for value in template.variables.values())

    def render(messages: list[tuple[str, str]]) -> tuple[Outcome, str]:
        outcome, text = _rendered(compiled, messages, variables)
        if outcome is Outcome.RENDERED:
            allowed = most + sum(
                _OF_A_MESSAGE + _OF_A_CHARACTER * (len(role) + len(content)) for role, content in messages
            )
            if len(text) > allowed:
                return Outcome.TOO_LONG, f"{len(text):,} characters; at most {allowed:,} may be"
        return outcome, text

    return render


def _rendered(
    template: jinja2.Template, messages: list[tuple[str, str]], variables: Mapping[str, Any]
) -> tuple[Outcome, str]:
    turns = [{"role": role, "content": content} for role, content in messages]
    try:
        return Outcome.RENDERED, template.render(messages=turns, add_generation_prompt=False, **variables)
    except _ClockRead:
        return Outcome.CLOCK, ""
    except MemoryError:
        return Outcome.MEMORY, ""
    except jinja2.TemplateError as error:
        return Outcome.REFUSED, _words(error)
    except Exception as error:
        # A template is a program from elsewhere: whatever it raises is about this conversation.
        return Outcome.FAILED, f"{type(error).__name__}: {_words(error)}"


def _always(outcome: Outcome, words: str) -> Render:
    return lambda messages: (outcome, words)


def _words(error: Exception) -> str:
    words = str(error)
    return words if len(words) <= _LONGEST_WORDS else f"{words[:_LONGEST_WORDS]} …"


class _ClockRead(Exception):
    """The template asked for the time."""


class _Generation(Extension):
    """``{% generation %} … {% endgeneration %}`` marks the assistant's text for training; here it prints it."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _clock(fixed: date | None) -> Callable[[str], str]:
    """Returns the function ``strftime_now`` that a template sees."""
    if fixed is not None:
        return fixed.strftime

    def refuse(pattern: str) -> NoReturn:
        raise _ClockRead(pattern)

    return refuse


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
