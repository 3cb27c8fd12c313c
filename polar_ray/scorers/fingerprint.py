"""Comparing the fingerprints of two scorers, which may have been taken by two versions of polar_ray."""

import json
from functools import lru_cache
from typing import Any, get_args

from pydantic import BaseModel

from polar_ray.recipe.scorers import ScorerConfig
from polar_ray.recipe.secrets import digest

SETTING = "setting:"
"""What the keys of settings begin with in a fingerprint."""


def changed_keys(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Returns the keys in which two fingerprints differ, sorted.

    A setting that one of them does not hold counts as its default there: a version that adds one changes no scorer.
    """
    one, other = completed(before, now), completed(now, before)
    return sorted(key for key in {**one, **other} if one.get(key) != other.get(key))


def completed(fingerprint: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    """Returns a fingerprint with the defaults of those settings that only another one of the same kind holds."""
    fingerprint = hashed(fingerprint)
    defaults = _defaults(fingerprint.get("kind", ""))
    return fingerprint | {key: defaults[key] for key in other if key not in fingerprint and key in defaults}


def hashed(fingerprint: dict[str, str]) -> dict[str, str]:
    """Returns a fingerprint without the settings of a custom scorer, which earlier versions wrote as they are."""
    if "target" not in fingerprint or "settings" not in fingerprint:
        return fingerprint
    rest = {key: value for key, value in fingerprint.items() if key != "settings"}
    return rest | {f"{SETTING}{name}": digest(value) for name, value in json.loads(fingerprint["settings"]).items()}


def same_scorers(before: dict[str, dict[str, str]], now: dict[str, dict[str, str]]) -> bool:
    """Whether the fingerprints of scorers, by name, are those of the same scorers."""
    return before.keys() == now.keys() and not any(changed_keys(before[name], now[name]) for name in now)


@lru_cache
def _defaults(kind: str) -> dict[str, str]:
    """The settings of a kind of scorer at their defaults, as a fingerprint has them."""
    classes: dict[Any, type[BaseModel]] = {cls.model_fields["kind"].default: cls for cls in get_args(ScorerConfig)}
    if kind not in classes:
        return {}
    # Without what must be given: a setting that has no default is in every fingerprint.
    plain = classes[kind].model_construct().model_dump(mode="json")
    return {f"{SETTING}{name}": str(value) for name, value in plain.items()}
