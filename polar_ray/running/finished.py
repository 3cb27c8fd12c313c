"""A run that has finished is told from its folder: without a cluster, and without reading the model again."""

from pathlib import Path

from polar_ray.data.listing import InputFile
from polar_ray.data.parts import check_parts, run_parts
from polar_ray.errors import PolarRayError, RecipeChanged
from polar_ray.models.checkpoint import adapter_files, scored_files
from polar_ray.models.hashes import known_sha256
from polar_ray.recipe.recipe import Recipe
from polar_ray.recipe.scorers import RewardModel, ScorerConfig
from polar_ray.running.folder import RunFolder
from polar_ray.running.identity import Identity, check_same, read_identity
from polar_ray.running.manifest import Manifest, read_manifest
from polar_ray.running.parent import Parent
from polar_ray.scorers.catalog import fingerprint_of


def finished(recipe: Recipe, parent: Parent | None, folder: RunFolder, files: list[InputFile]) -> Manifest | None:
    """Returns the manifest if the folder holds this very run, finished, as far as this process can tell by itself.

    None where anything differs, or where only the nodes of the cluster can tell: they have the last word.

    Raises:
        OutputError: A part of the score table is gone or damaged.
    """
    if not folder.is_finished() or (earlier := read_identity(folder)) is None:
        return None
    fingerprints = _fingerprints(recipe)
    if fingerprints is None:
        return None
    inherited = parent.fingerprints if parent is not None else {}
    try:
        check_same(folder, earlier, Identity.of(recipe, files, {**inherited, **fingerprints}))
    except RecipeChanged:
        return None
    check_parts(folder.storage, run_parts(folder.storage))
    return read_manifest(folder)


def _fingerprints(recipe: Recipe) -> dict[str, dict[str, str]] | None:
    """The scorers' fingerprints, if nothing needs to be read or downloaded for them that is not known on this node."""
    try:
        if not all(_is_known(scorer) for scorer in recipe.named_scorers.values()):
            return None
        return {name: fingerprint_of(scorer) for name, scorer in recipe.named_scorers.items()}
    except (PolarRayError, OSError):
        # What cannot be had here may well be where the actors run.
        return None


def _is_known(scorer: ScorerConfig) -> bool:
    """Whether the hashes of all files of a model are known; a scorer without a model has none."""
    if not isinstance(scorer, RewardModel):
        return True
    model = Path(scorer.model).expanduser()
    paths = scored_files(model) if model.is_dir() else []
    if scorer.adapter is not None:
        adapter = Path(scorer.adapter).expanduser()
        paths = [*paths, *adapter_files(adapter)] if paths and adapter.is_dir() else []
    return bool(paths) and all(known_sha256(path) is not None for path in paths)
