"""Column names that are wrong: found in the head of the input, with a guess at the right ones, before anything runs."""

import json
import shlex
from collections.abc import Iterable

import yaml
from rapidfuzz import fuzz

from polar_ray.data.heads import Head, Kind, Shape, heads, merged
from polar_ray.data.listing import InputFile
from polar_ray.errors import InputError
from polar_ray.recipe.input import Input
from polar_ray.recipe.run import STORAGE_WAIT_S

SHOWN = 20
"""Columns that a message names."""

_TEXT: tuple[Kind, ...] = ("text", "objects")
_KINDS: dict[str, tuple[Kind, ...]] = {
    "prompt_id": ("text", "number"),
    "prompt": _TEXT,
    "reference": _TEXT,
    "candidates": ("texts", "objects"),
    "candidate_id": ("text", "number"),
    "messages": _TEXT,
}
_USUAL = {
    "prompt_id": ("prompt_id", "question_id", "id"),
    "prompt": ("prompt", "question", "instruction", "query", "input", "problem", "conversation", "messages"),
    "reference": ("reference", "gold", "ground_truth", "target", "solution", "answer"),
    "candidates": ("candidates", "outputs", "responses", "generations", "completions", "samples", "answers"),
    "candidate_id": ("candidate_id", "output_id", "response_id", "completion_id", "id"),
    "messages": ("messages", "content", "text", "output", "response", "completion", "generation", "answer"),
}
"""What each column is often called elsewhere, the likelier first."""
_ALIKE = 80
"""Similarity, of 100, from which a name counts as another spelling of a usual one."""


def check_column_names(
    files: list[InputFile], config: Input, wait_s: float = STORAGE_WAIT_S, *, needs_reference: bool
) -> None:
    """Checks that the columns are there without which no row can be scored.

    One row of a sample that has a column is enough: the first and the last rows of the first file, then those of files
    all over the listing. So what is refused is an input of which nothing would come.

    Args:
        files: The input's files.
        config: The recipe's input.
        wait_s: Seconds in which a storage that is away may come back.
        needs_reference: Whether there is a scorer that gives nothing without a reference.

    Raises:
        InputError: Every row would become a dead letter, or go without a reward; the message has the settings that
            are likely to be meant.
    """
    if config.format == "scores":
        return
    seen: Head = {}
    looked: list[str] = []
    for path, head in heads(files, config, wait_s):
        looked.append(path)
        seen = merged(seen, head)
        problem = _Names(seen, config, needs_reference).problem()
        if problem is None:
            return
    if seen:
        more = f", and a sample of the {len(files) - 1:,} other files" if len(files) > 1 else ""
        raise InputError(f"{min(looked)}{more}: {problem}")


class _Names:
    """The columns of an input beside those that a recipe names."""

    def __init__(self, head: Head, config: Input, needs_reference: bool) -> None:
        columns, fields = config.columns, config.candidate_fields
        self._head = head
        self._groups = config.layout == "groups"
        self._keys = {
            **{role: ("input.columns", name) for role, name in columns.model_dump().items()},
            **{role: ("input.candidate_fields", name) for role, name in fields.model_dump().items()},
        }
        top = ["prompt", "candidates" if self._groups else "messages"]
        if needs_reference and columns.references not in head:
            top.append("reference")
        self._top = top
        objects = head.get(columns.candidates)
        self._fields = objects.fields if self._groups and objects is not None and objects.kind == "objects" else None

    def problem(self) -> str | None:
        """Returns what is wrong and what to set, or None where rows can be scored."""
        missing = [role for role in self._top if self._name(role) not in self._head]
        if missing:
            columns = f"column{'' if len(missing) == 1 else 's'} {_and([f'`{self._name(role)}`' for role in missing])}"
            return f"no {columns}; the columns are {_shown(self._head)}; {self._advice(missing)}"
        if self._fields is not None and self._name("messages") not in self._fields:
            return (
                f"the candidates have no field `{self._name('messages')}`; their fields are {_shown(self._fields)}; "
                + _set(self._field_settings(self._fields), [self._key("messages")])
            )
        wrong = [(role, self._head[self._name(role)]) for role in self._top]
        if self._fields is not None:
            wrong.append(("messages", self._fields[self._name("messages")]))
        for role, shape in wrong:
            if shape.kind in _WORDS and shape.kind not in _KINDS[role]:
                return (
                    f"column `{self._name(role)}` holds {_WORDS[shape.kind]}, not {_WANTED[role]}; the columns are "
                    f"{_shown(self._head)}; {self._advice([role])}"
                )
        return None

    def _name(self, role: str) -> str:
        return str(self._keys[role][1])

    def _advice(self, missing: list[str]) -> str:
        """Returns what to set for columns that are not there."""
        free = {name: shape for name, shape in self._head.items() if name not in self._taken(missing)}
        layout = self._other_layout(missing, free)
        if layout is not None:
            return layout
        return _set(self._guesses(missing, free), [self._key(role) for role in missing])

    def _guesses(self, missing: list[str], free: Head) -> dict[str, str]:
        """Returns the settings for columns that are not there, as far as the free ones tell."""
        settings: dict[str, str] = {}
        for role in missing:
            guess = _named(role, free) or _only(role, free)
            if guess is None:
                continue
            settings[self._key(role)] = guess
            shape = free[guess]
            free = {name: each for name, each in free.items() if name != guess}
            if role == "candidates":
                settings |= self._field_settings(shape.fields)
        return settings

    def _others(self, settings: dict[str, str], missing: list[str], column: str, free: Head) -> str:
        """Returns the sentence that sets another layout, whose texts are in a column, and all that is missing with it.

        What else the layout needs is told at once, not by another refusal.
        """
        rest = [role for role in missing if role not in ("candidates", "messages")]
        settings |= self._guesses(rest, {name: shape for name, shape in free.items() if name != column})
        return _set(settings, [self._key(role) for role in rest])

    def _other_layout(self, missing: list[str], free: Head) -> str | None:
        """Returns what to set where the columns look like those of another layout."""
        if "candidates" in missing and _named("candidates", free) is None:
            text = _named("messages", free)
            if text is None:
                return None
            settings = {"input.layout": "candidates", self._key("messages"): text}
            told = self._others(settings, missing, text, free)
            return f"if each row is one candidate, with its text in `{text}`: {told}"
        if "messages" in missing and _named("messages", free) is None:
            listed = _named("candidates", free) or _only("candidates", free)
            if listed is None:
                return None
            settings = {"input.layout": "groups", self._key("candidates"): listed}
            settings |= self._field_settings(free[listed].fields)
            told = self._others(settings, missing, listed, free)
            return f"if each row has all candidates of a prompt, in `{listed}`: {told}"
        return None

    def _field_settings(self, fields: Head) -> dict[str, str]:
        """Returns the settings for the fields of candidates that are not there under the recipe's names."""
        settings: dict[str, str] = {}
        for role in ("candidate_id", "messages"):
            if fields and self._name(role) not in fields:
                free = {name: shape for name, shape in fields.items() if name not in settings.values()}
                if (guess := _named(role, free) or _only(role, free)) is not None:
                    settings[self._key(role)] = guess
        return settings

    def _taken(self, missing: list[str]) -> set[str]:
        return {name for role, (_, name) in self._keys.items() if role not in missing}

    def _key(self, role: str) -> str:
        return f"{self._keys[role][0]}.{role}"


def _named(role: str, head: Head) -> str | None:
    """Returns the column that is likely to be meant by its name, among those of a type that can be read."""
    usual = _USUAL[role]
    likeness = [
        (fuzz.ratio(name.lower(), known) - rank / len(usual), name)
        for name in _fitting(role, head)
        for rank, known in enumerate(usual)
    ]
    best = max(likeness, default=(0.0, ""))
    return best[1] if best[0] >= _ALIKE else None


def _only(role: str, head: Head) -> str | None:
    """Returns the only column of a type that can be read; not for what may be missing altogether."""
    fitting = _fitting(role, head)
    return fitting[0] if len(fitting) == 1 and role in ("candidates", "messages", "prompt") else None


def _fitting(role: str, head: Head) -> list[str]:
    kinds = _KINDS[role]
    return [
        name
        for name, shape in head.items()
        if shape.kind in kinds and _may_be_messages(shape) != (role == "candidates")
    ]


def _may_be_messages(shape: Shape) -> bool:
    """Whether it is text or a list of messages, and not a list of anything else."""
    fields = shape.fields.keys()
    return shape.kind not in ("texts", "objects") or ("content" in fields and ("role" in fields or len(fields) == 1))


def _set(settings: dict[str, str], wanted: Iterable[str] = ()) -> str:
    """Returns the sentence that says what to set; keys that are wanted and have no guess are named at its end."""
    parts = [shlex.quote(f"{key}={_yaml(value)}") for key, value in settings.items()]
    sentences = [f"set {' '.join(parts)}"] if parts else []
    unknown = [key for key in wanted if key not in settings]
    if unknown:
        right = "the right one" if len(unknown) == 1 else "the right ones"
        sentences.append(f"{'and ' if parts else ''}set {_and(unknown)} to {right}")
    return " ".join(sentences)


def _and(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _yaml(name: str) -> str:
    """Returns a name as it is read back from the command line."""
    try:
        plain = yaml.safe_load(name) == name
    except yaml.YAMLError:
        plain = False
    return name if plain else json.dumps(name)


def _shown(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(name if name.isprintable() else repr(name) for name in listed[:SHOWN]) + more


_WORDS = {"text": "text", "number": "numbers", "texts": "lists of texts", "object": "objects"}
"""Kinds of which a column that must hold another plainly is the wrong one."""
_WANTED = {
    "prompt": "text or messages",
    "reference": "text or messages",
    "candidates": "a list of candidates",
    "messages": "text or messages",
}
