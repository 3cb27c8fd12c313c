"""A model's chat template: conversations become the text that the model was trained on.

Chat templates are Jinja programs that come with a checkpoint. The variables, functions, tags and whitespace
settings that they may rely on are those of transformers' ``apply_chat_template``:
https://huggingface.co/docs/transformers/main/en/chat_templating_writing

A template is run in Jinja's sandbox, in a process whose time and memory are limited: the sandbox keeps a program from
reaching out, not from going on for ever. What it prints must depend on the conversation alone, since the same score
has to come out tomorrow: the clock (``strftime_now``) and the ``random`` filter are refused.
"""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

from polar_ray.data.group import Message
from polar_ray.errors import TokenizerError
from polar_ray.models.rendering import Outcome, Template, pack_request, unpack_answer
from polar_ray.subprocesses.limited import Ended, LimitedProcess

SECONDS = 5.0
"""Seconds of processor time for one request; an honest template takes less than a hundredth of that."""
OVERRUN_S = 30.0
"""Seconds of processor time that conversations beyond ``SECONDS`` may take of those that are rendered together."""
MEMORY_BYTES = 2 * 2**30
"""Bytes of addresses that the process may have; without a conversation it takes a tenth of a GiB."""
_MOST, _MOST_CHARACTERS = 128, 1_000_000
"""Conversations in one request, and their characters, unless one alone has more."""
_TRIAL = (Message("user", "What is two plus two?"), Message("assistant", "Two plus two is four."))
_SYSTEM = Message("system", "Answer briefly.")

Conversation = Sequence[Message]


class ChatTemplate:
    """Renders conversations as text.

    Args:
        text: The Jinja source.
        variables: What the template may read beside the messages: ``bos_token`` and the like.
        kwargs: The user's variables, such as ``enable_thinking`` or ``date_string``; they win over ``variables``.
            ``strftime_now`` is the date, as ``YYYY-MM-DD``, that the template gets when it asks for today's.

    Raises:
        TokenizerError: The template is not valid Jinja, cannot render a question with its answer, leaves the
            answer out, goes beyond its limits, or depends on today's date or on chance.
    """

    def __init__(
        self, text: str, variables: Mapping[str, str] | None = None, kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self.text = text
        kwargs = kwargs or {}
        if reserved := sorted({"messages", "add_generation_prompt"} & kwargs.keys()):
            raise TokenizerError(f"chat_template_kwargs sets {reserved[0]}, which the scorer sets itself. Remove it.")
        clock = {"strftime_now": _date(kwargs.get("strftime_now"))}
        read: dict[str, Any] = {"tools": None, "documents": None, **(variables or {}), **kwargs, **clock}
        try:
            self._template = pickle.dumps(Template(text, read))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise TokenizerError(
                f"chat_template_kwargs holds what a recipe could not say ({error}). Use texts, numbers, lists and maps."
            ) from error
        self._process = LimitedProcess("polar_ray.models.template_worker", SECONDS, MEMORY_BYTES)
        self._try()

    def render(self, messages: Conversation) -> str:
        """Returns the conversation as text, without a prompt for a further answer.

        Raises:
            TokenizerError: The template refuses this conversation (an unknown role, say, or roles that do not
                alternate), goes beyond its limits, or asks for today's date.
        """
        (text,) = self.render_all([messages])
        if isinstance(text, TokenizerError):
            raise text
        return text

    def render_all(
        self, conversations: Sequence[Conversation], overrun: "Overrun | None" = None
    ) -> list[str | TokenizerError]:
        """Returns for each conversation what ``render`` returns or raises.

        Those that take too long cost the others nothing, until they have taken ``OVERRUN_S`` seconds together: then
        what was not rendered yet is an error.

        Args:
            conversations: Each with its turns.
            overrun: What others took that are rendered together with these; nothing by default.
        """
        overrun = overrun or Overrun()
        return [text for some in _requests(conversations) for text in self._rendered(some, overrun)]

    def close(self) -> None:
        """Ends the process in which the template runs. A later conversation starts another."""
        self._process.close()

    def _rendered(self, conversations: Sequence[Conversation], overrun: "Overrun") -> list[str | TokenizerError]:
        if overrun.seconds >= OVERRUN_S:
            error = TokenizerError(
                f"The chat template took more than {OVERRUN_S:g} s of processor time on conversations that it did not "
                "come to an end with, so this one was not rendered."
            )
            return [error] * len(conversations)
        try:
            answer = self._process.ask(pack_request(self._template, conversations))
        except Ended as end:
            if len(conversations) > 1 and end.started:
                before = overrun.seconds
                texts = [text for alone in conversations for text in self._rendered([alone], overrun)]
                # Many that are slow may take too long together; that is no fault of one.
                overrun.seconds += SECONDS if overrun.seconds > before else 0
                return texts
            overrun.seconds += SECONDS
            return [self._ended(end)] * len(conversations)
        return [
            text if outcome is Outcome.RENDERED else _error(outcome, text) for outcome, text in unpack_answer(answer)
        ]

    def _ended(self, end: Ended) -> TokenizerError:
        if end.took_too_long:
            return TokenizerError(
                f"The chat template took more than {SECONDS:g} s of processor time on this conversation."
            )
        if not end.started:
            raise TokenizerError(
                f"The process for chat templates ended with status {end.status} as it started; its message is on "
                "standard error. Repair the installation of Jinja2."
            ) from None
        return TokenizerError(f"The chat template ended its process, with status {end.status}, on this conversation.")

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
        except _ClockRead:
            raise
        except TokenizerError:
            # Refusing a system message is a template's right (Gemma's does); reading the clock is not.
            pass


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


class _ClockRead(TokenizerError):
    """The template asked for the time."""


class Overrun:
    """What conversations took of the process without coming to an end."""

    def __init__(self) -> None:
        self.seconds = 0.0


def _requests(conversations: Sequence[Conversation]) -> Iterator[Sequence[Conversation]]:
    """Yields conversations in parts of a size at which one that fails costs little, and asking costs little."""
    start, characters = 0, 0
    for number, messages in enumerate(conversations):
        size = sum(len(message.content) for message in messages)
        if number > start and (number - start == _MOST or characters + size > _MOST_CHARACTERS):
            yield conversations[start:number]
            start, characters = number, 0
        characters += size
    if conversations:
        yield conversations[start:]


def _error(outcome: Outcome, text: str) -> TokenizerError:
    if outcome is Outcome.CLOCK:
        return _ClockRead(
            "The chat template asks for today's date, so the same conversation would get another score "
            "tomorrow. Fix the date in chat_template_kwargs (date_string, where the template reads it, or "
            "strftime_now: 'YYYY-MM-DD', for any template)."
        )
    if outcome is Outcome.CHANCE:
        return TokenizerError(
            "The chat template uses the filter 'random', so the same conversation would get other scores in "
            "another run. Set chat_template in the recipe to a template without it."
        )
    said = {
        Outcome.INVALID: f"is not valid Jinja: {text}. Correct it, or set chat_template in the recipe.",
        Outcome.REFUSED: f"refuses this conversation: {text}",
        Outcome.FAILED: f"fails on this conversation: {text}",
        Outcome.MEMORY: f"wants more than {MEMORY_BYTES / 2**30:g} GiB of memory for this conversation.",
        Outcome.TOO_LONG: f"makes too long a text of this conversation: {text}.",
    }
    return TokenizerError(f"The chat template {said[outcome]}")


def _date(fixed: Any) -> date | None:
    """Returns the date that a template gets when it asks for today's, or None where it may not."""
    if fixed is None or isinstance(fixed, date):
        return fixed
    try:
        return datetime.fromisoformat(str(fixed))
    except ValueError as error:
        raise TokenizerError(
            f"chat_template_kwargs.strftime_now is {fixed!r}. Write a date, such as '2024-07-26'."
        ) from error
