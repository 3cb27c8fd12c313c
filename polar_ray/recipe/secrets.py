"""What a recipe holds that nobody else should read, and how it is shown.

Values of ``storage_options`` and of a custom scorer's ``settings`` are secret unless the recipe says otherwise. Where a
recipe is written or printed there stands ``*** sha256:…`` in their place, which tells two values apart and no more.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from polar_ray.errors import RecipeError

MASK = "***"
ENV = "env"
"""``{env: NAME}`` as the value of a setting stands for what the environment variable holds where the scorer is made."""
SHORTEST = 4
"""Characters of a secret that is looked for in messages; a shorter one would be found in any text."""


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
    """Returns the texts among the values of settings, at any depth, that are to be hidden in messages."""
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, (list, tuple)):
        return [secret for value in values for secret in secrets_in(value)]
    return [str(values)] if isinstance(values, str) and len(values) >= SHORTEST else []


def hidden(text: str, secrets: Sequence[str]) -> str:
    """Returns a message in which each secret is replaced by ``***``, longer ones first."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text
