"""Command-line overrides: ``key.key=value``, the value written as in YAML."""

import copy
from typing import Any

import yaml

from polar_ray.errors import RecipeError


def apply_overrides(data: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Returns a copy of ``data`` with each ``a.b.c=value`` set.

    Whether a key exists and a value fits is decided by the recipe's types, which see the result.

    Raises:
        RecipeError: An override has no ``=``, is not YAML, or goes through a value that has no keys.
    """
    result = copy.deepcopy(data)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"the override {override!r} must look like key.key=value")
        try:
            value = yaml.safe_load(text) if text else ""
        except yaml.YAMLError:
            value = text
        *parents, last = key.strip().split(".")
        node = result
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise RecipeError(f"the override {override!r} goes through {parent}, which holds a value, not keys")
            node = child
        node[last] = value
    return result
