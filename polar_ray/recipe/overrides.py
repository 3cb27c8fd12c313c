"""Command-line overrides: ``key.key=value``, the value written as in YAML."""

import copy
from typing import Any

import yaml

from polar_ray.errors import RecipeError
from polar_ray.recipe.plain_yaml import AmbiguousYaml, read_yaml


def apply_overrides(data: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Returns a copy of ``data`` with each ``a.b.c=value`` set.

    Whether a key exists and a value fits is decided by the recipe's types, which see the result; they also decide
    whether ``null`` is a value or takes the key away (``unset``).

    Raises:
        RecipeError: An override has no ``=``, is not YAML, or goes through a value that has no keys.
    """
    result = copy.deepcopy(data)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"the override {_shown(key)} must look like key.key=value")
        try:
            value = read_yaml(text) if text else ""
        except AmbiguousYaml as error:
            raise RecipeError(f"the value of the override {key.strip()!r} is ambiguous: {error.problem}") from None
        except yaml.YAMLError:
            value = text
        except (RecursionError, ValueError) as error:
            raise RecipeError(f"the value of the override {key.strip()!r} cannot be read as YAML") from error
        *parents, last = key.strip().split(".")
        node = result
        for parent in parents:
            if node.get(parent) is None:
                node[parent] = {}
            child = node[parent]
            if not isinstance(child, dict):
                raise RecipeError(f"the override {key.strip()!r} goes through {parent}, which holds a value, not keys")
            node = child
        node[last] = value
    return result


def unset(overrides: list[str]) -> list[str]:
    """Returns the keys that overrides set to ``null``."""
    parts = (override.partition("=") for override in overrides)
    return [key.strip() for key, _, text in parts if text.strip() in ("null", "~", "Null", "NULL")]


def _shown(text: str) -> str:
    """A few characters of what is no override: it may be a password that was pasted."""
    return repr(text if len(text) <= 12 else text[:12] + "…")
