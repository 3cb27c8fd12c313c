"""A recipe as a document: read from YAML, changed on the command line, checked against its types."""

from typing import Any, ClassVar

import yaml
from pydantic import ValidationError
from typing_extensions import Self

from polar_ray.errors import RecipeError
from polar_ray.recipe.base import Part
from polar_ray.recipe.explain import explain
from polar_ray.recipe.overrides import apply_overrides


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
                data = yaml.safe_load(file)
        except OSError as error:
            raise RecipeError(f"cannot read the recipe {path}: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise RecipeError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(data, dict):
            raise RecipeError(f"{path} must hold a mapping with the keys {cls.expected_keys}")
        return cls.of(data, overrides, where=path)

    @classmethod
    def of(cls, data: dict[str, Any], overrides: list[str] | None = None, where: str = "recipe") -> Self:
        """Builds a recipe from plain data and overrides; raises RecipeError like ``load``."""
        try:
            return cls.model_validate(apply_overrides(data, overrides or []))
        except ValidationError as error:
            raise RecipeError(f"{where}: {explain(error, cls)}") from None
