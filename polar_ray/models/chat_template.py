"""A model's chat template: conversations become the text that the model was trained on.

Chat templates are Jinja programs that come with a checkpoint. The variables, functions, tags and whitespace
settings that they may rely on are those of transformers' ``apply_chat_template``:
https://huggingface.co/docs/transformers/main/en/chat_templating_writing

A template is run in Jinja's sandbox. What it prints must depend on the conversation alone, since the same score
has to come out tomorrow: the clock (``strftime_now``) and the ``random`` filter are refused.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from polar_ray.data.group import Message
from polar_ray.errors import TokenizerError

_TRIAL = (Message("user", "What is two plus two?"), Message("assistant", "Two plus two is four."))
_SYSTEM = Message("system", "Answer briefly.")


class ChatTemplate:
    """Renders conversations as text.

    Args:
        text: The Jinja source.
        variables: What the template may read beside the messages: ``bos_token`` and the like.
        kwargs: The user's variables, such as ``enable_thinking`` or ``date_string``; they win over ``variables``.
            ``strftime_now`` is the date, as ``YYYY-MM-DD``, that the template gets when it asks for today's.

    Raises:
        TokenizerError: The template is not valid Jinja, cannot render a question with its answer, leaves the
            answer out, or depends on today's date or on chance.
    """

    def __init__(
        self, text: str, variables: Mapping[str, str] | None = None, kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self.text = text
        kwargs = kwargs or {}
        if reserved := sorted({"messages", "add_generation_prompt"} & kwargs.keys()):
            raise TokenizerError(f"chat_template_kwargs sets {reserved[0]}, which the scorer sets itself. Remove it.")
        self._variables = {"tools": None, "documents": None, **(variables or {}), **kwargs}
        self._variables["strftime_now"] = _clock(kwargs.get("strftime_now"))
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        del environment.globals["lipsum"]  # Prints random text.
        try:
            tree = environment.parse(text)
            self._template = environment.from_string(text)
        except jinja2.TemplateError as error:
            raise TokenizerError(
                f"The chat template is not valid Jinja: {error}. Correct it, or set chat_template in the recipe."
            ) from error
        if any(filtered.name == "random" for filtered in tree.find_all(nodes.Filter)):
            raise TokenizerError(
                "The chat template uses the filter 'random', so the same conversation would get other scores in "
                "another run. Set chat_template in the recipe to a template without it."
            )
        self._try()

    def render(self, messages: Sequence[Message]) -> str:
        """Returns the conversation as text, without a prompt for a further answer.

        Raises:
            TokenizerError: The template refuses this conversation (an unknown role, say, or roles that do not
                alternate) or asks for today's date.
        """
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(messages=turns, add_generation_prompt=False, **self._variables)
        except _ClockRead as error:
            raise TokenizerError(
                "The chat template asks for today's date, so the same conversation would get another score "
                "tomorrow. Fix the date in chat_template_kwargs (date_string, where the template reads it, or "
                "strftime_now: 'YYYY-MM-DD', for any template)."
            ) from error
        except jinja2.TemplateError as error:
            raise TokenizerError(f"The chat template refuses this conversation: {error}") from error
        except Exception as error:
            # A template is a program from elsewhere: whatever it raises is about this conversation.
            raise TokenizerError(
                f"The chat template fails on this conversation: {type(error).__name__}: {error}"
            ) from error

    def _try(self) -> None:
        """Renders a question with its answer, with and without a system message, to refuse a bad template early."""
        rendered = self.render(_TRIAL)
        if _TRIAL[-1].content not in rendered:
            raise TokenizerError(
                "The chat template leaves the assistant's answer out, so every candidate would get the same "
                "score. Set chat_template in the recipe to the template that the model was trained with."
            )
        try:
            self.render((_SYSTEM, *_TRIAL))
        except TokenizerError as error:
            # Refusing a system message is a template's right (Gemma's does); reading the clock is not.
            if isinstance(error.__cause__, _ClockRead):
                raise


def read_chat_template(folder: Path, tokenizer_config: Mapping[str, Any], override: str | None) -> str:
    """Returns the source of the template that applies to a model.

    In this order: ``override`` (the path of a ``.jinja`` file, or the source itself), ``chat_template.jinja`` in
    the folder, ``chat_template`` in ``tokenizer_config.json`` (from a list of named templates, ``default``).

    Raises:
        TokenizerError: There is no template, or the file does not exist.
    """
    if override is not None:
        if not override.endswith(".jinja"):
            return override
        if not Path(override).is_file():
            raise TokenizerError(f"chat_template: there is no file {override}. Give an existing path.")
        return Path(override).read_text(encoding="utf-8")
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
        if template is None:
            raise TokenizerError(
                f"The tokenizer in {folder} has the chat templates {', '.join(named)} and none named 'default'. "
                "Set chat_template in the recipe to the source of the one that the model was trained with."
            )
    if template is None:
        raise TokenizerError(
            f"The tokenizer in {folder} has no chat template. Set chat_template in the recipe to the template "
            "that the model was trained with: the path of a .jinja file, or its text."
        )
    return str(template)


class _ClockRead(Exception):
    """The template asked for the time."""


class _Generation(Extension):
    """``{% generation %} … {% endgeneration %}`` marks the assistant's text for training; here it prints it."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _clock(fixed: Any) -> Callable[[str], str]:
    """Returns the function ``strftime_now`` that a template sees."""
    if fixed is None:

        def refuse(pattern: str) -> NoReturn:
            raise _ClockRead(pattern)

        return refuse
    if not isinstance(fixed, date):
        try:
            fixed = datetime.fromisoformat(str(fixed))
        except ValueError as error:
            raise TokenizerError(
                f"chat_template_kwargs.strftime_now is {fixed!r}. Write a date, such as '2024-07-26'."
            ) from error
    return fixed.strftime  # type: ignore[no-any-return]


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
