"""What a run derives from its own score table, seen before there is one. Without Ray: `plan` looks at it too."""

import pyarrow as pa

from polar_ray.deriving.columns import SCORE_FIELDS, ScoreColumns
from polar_ray.deriving.derived_folder import DerivedFolder
from polar_ray.deriving.wanted import wanted_of
from polar_ray.errors import RecipeError
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.parent import Parent
from polar_ray.scorers.catalog import extras_of


def check_derivations(recipe: Recipe, parent: Parent | None) -> None:
    """Checks, before anything is scored, that the score table will have what the recipe's derivations ask for.

    What a custom scorer adds beyond its rewards is not known before it is made, and taken on trust.

    Raises:
        RecipeError: A derivation names a scorer or column that there will not be.
    """
    for name, derivation in recipe.derivations.items():
        try:
            wanted_of(derivation, _schema(recipe, parent, derivation))
        except RecipeError as error:
            raise RecipeError(f"derive.{name}: {error}") from None


def clear_derivations(recipe: Recipe) -> None:
    """Deletes what the recipe derived earlier, since the scores that it came from are about to go.

    Raises:
        OutputError: A folder of one of the datasets is a link; nothing was deleted.
    """
    folders = [
        DerivedFolder.of(derivation.output, derivation.limits.storage_wait_s)
        for derivation in recipe.derivations.values()
    ]
    for folder in folders:
        folder.check_clearable()
    for folder in folders:
        folder.clear()


def _schema(recipe: Recipe, parent: Parent | None, derivation: DeriveRecipe) -> pa.Schema:
    """The columns of the score table that the run will leave, as far as a derivation could ask for them."""
    fields = [pa.field("prompt_id", pa.string()), pa.field("input_row", pa.int64())]
    fields += parent.fields if parent is not None else []
    numbers, texts = pa.list_(pa.float32()), pa.list_(pa.string())
    asked = derivation.reward.uncertainty
    for scorer, config in recipe.named_scorers.items():
        column = ScoreColumns(scorer)
        fields += [pa.field(column(name), texts if name == "status" else numbers) for name in SCORE_FIELDS]
        # Which columns a scorer adds is said by its class, which may load torch: only if it matters.
        extras = ([asked] if config.kind == "custom" else extras_of(config)) if asked is not None else []
        fields += [pa.field(column(name), numbers) for name in extras]
    return pa.schema(fields)
