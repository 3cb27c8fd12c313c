"""What a run derives from its own score table, seen before there is one. Without Ray: `plan` looks at it too."""

import pyarrow as pa

from polar_ray.data.guard import Guard
from polar_ray.deriving.columns import SCORE_FIELDS, ScoreColumns
from polar_ray.deriving.derived_folder import DerivedFolder
from polar_ray.deriving.wanted import wanted_of
from polar_ray.errors import RecipeError
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.parent import Parent
from polar_ray.scorers.catalog import extras_of


def check_derivations(
    recipe: Recipe, parent: Parent | None, derivations: dict[str, DeriveRecipe] | None = None
) -> None:
    """Checks, before anything is scored, that the score table will have what the recipe's derivations ask for.

    What a custom scorer adds beyond its rewards is not known before it is made, and taken on trust.

    Args:
        recipe: How the score table is made.
        parent: The run that its scorers are added to.
        derivations: What is derived from it; the recipe's own by default.

    Raises:
        RecipeError: A derivation names a scorer or column that there will not be, or one of another type.
    """
    for name, derivation in (recipe.derivations if derivations is None else derivations).items():
        try:
            wanted_of(derivation, _schema(recipe, parent, derivation))
        except RecipeError as error:
            raise RecipeError(f"derive.{name}: {error}") from None


def are_derived(recipe: Recipe) -> bool:
    """Whether there is a finished dataset for each of the recipe's derivations."""
    return all(folder.is_finished() for folder in _folders(recipe))


def clear_derivations(recipe: Recipe, guard: Guard | None = None) -> None:
    """Deletes what the recipe derived earlier, since the scores that it came from are about to go.

    Args:
        recipe: How it is scored and derived.
        guard: Is asked before anything is deleted, and raises where it is no longer this process's to do.

    Raises:
        OutputError: A folder of one of the datasets is a link; nothing was deleted.
    """
    folders = [folder if guard is None else folder.guarded(guard) for folder in _folders(recipe)]
    for folder in folders:
        folder.check_clearable()
    for folder in folders:
        folder.clear()


def _folders(recipe: Recipe) -> list[DerivedFolder]:
    return [
        DerivedFolder.of(derivation.output, derivation.limits.storage_wait_s)
        for derivation in recipe.derivations.values()
    ]


def _schema(recipe: Recipe, parent: Parent | None, derivation: DeriveRecipe) -> pa.Schema:
    """The columns of the score table that the run will leave, as far as a derivation could ask for them."""
    fields = [pa.field("prompt_id", pa.string()), pa.field("input_row", pa.int64())]
    fields += parent.fields if parent is not None else []
    asked = derivation.reward.uncertainty
    for scorer, config in recipe.named_scorers.items():
        column = ScoreColumns(scorer)
        own = {column(name): pa.list_(type_) for name, type_ in SCORE_FIELDS.items()}
        # Which columns a scorer adds is said by its class, which may load torch: only if it matters.
        extras = ([asked] if config.kind == "custom" else extras_of(config)) if asked is not None else []
        # What every scorer writes is of its own type, whatever is asked of a scorer that is not known yet.
        added = {column(name): pa.list_(pa.float32()) for name in extras}
        fields += [pa.field(name, type_) for name, type_ in {**added, **own}.items()]
    return pa.schema(fields)
