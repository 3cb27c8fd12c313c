"""Which command a document is for: told by its keys, where it was given to another command."""

from typing import Any

from pydantic import BaseModel

from polar_ray.recipe.curate import CurateRecipe
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.recipe.recipe import Recipe

_RUN, _DERIVE, _CURATE = "run", "derive", "curate"
_MODELS: dict[str, type[BaseModel]] = {_RUN: Recipe, _DERIVE: DeriveRecipe, _CURATE: CurateRecipe}
_NEEDED = {_RUN: {"input"}, _DERIVE: {"run"}, _CURATE: {"input", "derive"}}
_MANIFEST = {"recipe", "counts", "conservation"}
"""Keys that the manifest of a run has, and that of a derived dataset too."""


def what_it_is(data: dict[str, Any], model: type[BaseModel]) -> str | None:
    """Returns what a document is, in words, if it is no recipe of this model but something else that is known."""
    keys = data.keys()
    if keys >= _MANIFEST:
        return "is a manifest, not a recipe; the recipe that was used stands in it under the key recipe"
    of_model = keys <= model.model_fields.keys() and keys >= _needed(model)
    if of_model:
        return None
    for command, other in _MODELS.items():
        if other is not model and keys <= other.model_fields.keys() and keys >= _NEEDED[command]:
            return f"is a recipe for polar-ray {command}, not for polar-ray {_command(model)}"
    return None


def _command(model: type[BaseModel]) -> str:
    return next(command for command, other in _MODELS.items() if other is model)


def _needed(model: type[BaseModel]) -> set[str]:
    return _NEEDED[_command(model)]
