"""A recipe as a document: read from YAML, changed on the command line, checked against its types."""

import re
from typing import Any, ClassVar

import yaml
from pydantic import ValidationError
from typing_extensions import Self

from polar_ray.errors import RecipeError
from polar_ray.recipe.base import Part
from polar_ray.recipe.explain import explain, takes_null
from polar_ray.recipe.overrides import apply_overrides, unset
from polar_ray.recipe.plain_yaml import AmbiguousYaml, read_yaml


class Document(Part):
    """The base of whole recipes, which stand in a file of their own."""

    expected_keys: ClassVar[str]
    """The keys that a file must have, as an error message names them."""

    @classmethod
    def load(cls, path: str, overrides: list[str] | None = None) -> Self:
        """Reads a YAML recipe and applies overrides such as ``output.path=s3://bucket/scored``.

        Raises:
            RecipeError: The file, a key or a value is wrong; the message names the nearest right key.
        """
        try:
            with open(path, encoding="utf-8") as file:
                data = read_yaml(file)
        except OSError as error:
            raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise RecipeError(
                f"{path} is not UTF-8 (byte {error.start}), as a recipe must be; save it so, or give another path"
            ) from error
        except RecursionError as error:
            raise RecipeError(f"{path} is nested too deep to be a recipe") from error
        except AmbiguousYaml as error:
            raise RecipeError(f"{path} is ambiguous: {_problem(error)}; write out what is meant, once") from None
        except yaml.YAMLError as error:
            raise RecipeError(f"{path} is not valid YAML: {_problem(error)}") from None
        except ValueError as error:
            # YAML's own types, such as a date in a thirteenth month.
            raise RecipeError(f"{path} holds a value that YAML cannot read: {error}") from error
        if not isinstance(data, dict):
            raise RecipeError(f"{path} must hold a mapping with the keys {cls.expected_keys}")
        return cls.of(data, overrides, where=path)

    @classmethod
    def of(cls, data: dict[str, Any], overrides: list[str] | None = None, where: str = "recipe") -> Self:
        """Builds a recipe from plain data and overrides; raises RecipeError like ``load``."""
        changed = apply_overrides(data, overrides or [])
        for key in unset(overrides or []):
            _unset(changed, key.split("."), cls)
        try:
            return cls.model_validate(changed)
        except ValidationError as error:
            from polar_ray.recipe.kinds import what_it_is

            other = what_it_is(data, cls)
            raise RecipeError(f"{where} {other}" if other else f"{where}: {explain(error, cls)}") from None
        except RecursionError as error:
            raise RecipeError(f"{where} is nested too deep to be a recipe") from error


def _unset(data: dict[str, Any], location: list[str], model: type[Part]) -> None:
    """Takes a key out that an override set to null, unless null is a value of its own there."""
    *parents, last = location
    if takes_null(model, location):
        return
    for parent in parents:
        data = data[parent]
    # A later override may have set it again.
    if data.get(last, "") is None:
        del data[last]


def _problem(error: yaml.YAMLError) -> str:
    """Says what is wrong and where, without the words of the file, which may be secrets (``*key`` is an alias)."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return type(error).__name__
    problem = re.sub(r"'[^']{2,}'", "'…'", error.problem or "")
    return f"{problem} at line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"
