"""What a recipe holds that nobody else should read, and how it is shown.

Values of ``storage_options`` and of a custom scorer's ``settings`` are secret unless the recipe says otherwise. Where a
recipe is written or printed there stands ``*** sha256:…`` in their place, which tells two values apart and no more.
"""

import hashlib
import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import unquote

from polar_ray.errors import PolarRayError, RecipeError, ScoringError

MASK = "***"
ENV = "env"
"""``{env: NAME}`` as the value of a setting stands for what the environment variable holds where the scorer is made."""
SHORTEST = 4
"""Characters of a secret that is looked for in messages; a shorter one would be found in any text."""
SHORTEST_LINE = 8
"""Likewise for one line of several, which may be a bracket or a word."""


class Secret(str):
    """A text that is a secret: as a value it is any other text, but its ``repr`` does not show it."""

    def __repr__(self) -> str:
        return f"'{MASK}'"


def digest(value: Any) -> str:
    """Returns the SHA-256 of a setting's value, as a fingerprint has it."""
    return f"sha256:{hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()}"


def mask(value: Any) -> Any:
    """Returns what is shown in place of a value; the name of an environment variable is no secret."""
    if is_masked(value) or variable_of(value) is not None:
        return value
    return f"{MASK} {digest(value)[: len('sha256:') + 12]}"


def is_masked(value: Any) -> bool:
    """Whether a value is what a written recipe has in place of a secret."""
    return isinstance(value, str) and value.startswith(MASK)


def masked_settings(settings: Mapping[str, Any], public: list[str]) -> dict[str, Any]:
    """Returns the settings of a custom scorer as they are shown: names, and values of those that are public."""
    return {name: value if name in public else mask(value) for name, value in settings.items()}


def masked_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the recipe of a manifest, which an earlier version may have written, as it may be shown."""

    def shown(scorer: Any) -> Any:
        if not isinstance(scorer, Mapping) or scorer.get("kind") != "custom":
            return scorer
        return {**scorer, "settings": masked_settings(scorer.get("settings", {}), scorer.get("public", []))}

    scorers = {name: shown(scorer) for name, scorer in (recipe.get("scorers") or {}).items()}
    parts = {"scorer": shown(recipe["scorer"])} if "scorer" in recipe else {}
    return {**recipe, **parts, **({"scorers": scorers} if "scorers" in recipe else {})}


def variable_of(value: Any) -> str | None:
    """Returns the environment variable that a setting names by ``{env: NAME}``, or None."""
    if isinstance(value, Mapping) and set(value) == {ENV} and isinstance(value[ENV], str):
        return str(value[ENV])
    return None


def revealed(settings: Mapping[str, Any], public: list[str]) -> dict[str, Any]:
    """Returns the settings as a scorer gets them: from the environment where they say so, texts as ``Secret``.

    Raises:
        RecipeError: A variable is not set here, or a setting is still masked.
    """
    found = {}
    for name, value in settings.items():
        if is_masked(value):
            raise RecipeError(
                f"settings.{name} is masked: the recipe was taken from a manifest, which holds no secrets. Give it "
                f"anew, as settings.{name}=… or as settings.{name}={{env: NAME}}"
            )
        variable = variable_of(value)
        if variable is not None:
            if variable not in os.environ:
                raise RecipeError(
                    f"settings.{name} is the environment variable {variable}, which is not set here; set it where "
                    "scorers run, on a cluster with the job's runtime_env"
                )
            value = os.environ[variable]
        found[name] = Secret(value) if isinstance(value, str) and name not in public else value
    return found


def secrets_in(values: Any) -> list[str]:
    """Returns what is to be hidden in messages: the texts and numbers among the values of settings, at any depth.

    What is shorter than ``SHORTEST`` is left out, and so are the keys of mappings, which are names. The lines of a text
    are secrets of their own, since a message may show one of them.
    """
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, (list, tuple)):
        return [secret for value in values for secret in secrets_in(value)]
    if isinstance(values, bool) or not isinstance(values, (str, int, float)):
        return []
    text = str(values)
    lines = [line for line in map(str.strip, text.splitlines()) if len(line) >= SHORTEST_LINE]
    return [secret for secret in dict.fromkeys([text, *lines]) if len(secret) >= SHORTEST]


def secrets_of_storage(options: Mapping[str, Any]) -> list[str]:
    """Returns what is to be hidden of ``storage_options``: of an address also the name and the password in it."""
    endpoint = str(options.get("endpoint_url") or "")
    user = endpoint.partition("//")[2].partition("/")[0].rpartition("@")[0]
    in_address = [unquote(part) for part in user.split(":")] + user.split(":")
    return secrets_in([*options.values(), *in_address])


def hidden(text: str, secrets: Sequence[str]) -> str:
    """Returns a message in which each secret is replaced by ``***``, longer ones first.

    A secret is found as it is, with the escapes that Python, JSON, HTML and a shell write, and percent-encoded, in any
    mixture of these.
    """
    return _pattern(tuple(secrets)).sub(MASK, text) if secrets else text


@cache
def _pattern(secrets: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(_forms, sorted(secrets, key=len, reverse=True))))


def _forms(secret: str) -> str:
    """Returns a pattern for all that a text may have become in a message; repetitions are bounded."""
    runs = re.findall(r"\\+|[^\\]", secret)
    # Each quotation of a quotation doubles backslashes.
    return "".join(
        rf"(?:\\|%(?:25){{0,3}}5[cC]){{1,{16 * len(run)}}}" if run[0] == "\\" else _forms_of(run) for run in runs
    )


def _forms_of(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character
    code = ord(character)
    percent = "".join(f"%(?:25){{0,3}}(?i:{byte:02x})" for byte in character.encode("utf-8", "surrogatepass"))
    escapes = [f"u(?i:{code:04x})", f"x(?i:{code:02x})", f"U(?i:{code:08x})"]
    if code > 0xFFFF:
        pair = character.encode("utf-16-be")
        escapes.append(rf"u(?i:{pair[:2].hex()})\\{{1,16}}u(?i:{pair[2:].hex()})")
    if character in _LETTERS:
        escapes.append(_LETTERS[character])
    forms = [rf"\\{{0,16}}{re.escape(character)}", rf"\\{{1,16}}(?:{'|'.join(escapes)})", percent]
    if (entity := html.escape(character)) != character:
        forms += [re.escape(entity), f"&#0{{0,4}}{code};"]
    if character == " ":
        forms.append(r"\+")
    return f"(?:{'|'.join(forms)})"


_LETTERS = {"\n": "n", "\r": "r", "\t": "t", "\a": "a", "\b": "b", "\f": "f", "\v": "v"}


def hidden_error(error: PolarRayError, secrets: Sequence[str]) -> PolarRayError:
    """Returns an error of the same kind without the secrets in its message; a class of the user's may take anything."""
    kind = type(error) if type(error).__module__ == PolarRayError.__module__ else ScoringError
    return kind(hidden(str(error), secrets))
