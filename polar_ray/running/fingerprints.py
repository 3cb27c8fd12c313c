"""Fingerprints of a recipe's scorers, taken where their actors will run."""

import ray

from polar_ray.errors import PolarRayError
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.placement import Pool
from polar_ray.scorers.catalog import fingerprint_of


def fingerprints_of(recipe: Recipe, sized: list[Pool]) -> dict[str, dict[str, str]]:
    """Returns the fingerprint of each scorer, by its name.

    They are taken by tasks that ask for what an actor asks for: that is where the model's files are.

    Raises:
        PolarRayError: What the scorer says of its model's files.
    """
    refs = [
        ray.remote(fingerprint_of)
        .options(
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            accelerator_type=recipe.compute.accelerator_type if pool.gpus else None,
        )
        .remote(scorer)
        for scorer, pool in zip(recipe.named_scorers.values(), sized, strict=True)
    ]
    try:
        return dict(zip(recipe.named_scorers, ray.get(refs), strict=True))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PolarRayError):
            raise error.cause from None
        raise
