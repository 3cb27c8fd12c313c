"""Rewards of two scorers do not compare: they do not come into one version, and that is found before scoring."""

import hashlib
from collections.abc import Mapping

import msgspec

from polar_ray.curating.shards import run_folder
from polar_ray.curating.state import Shard, State
from polar_ray.data.storage import Storage
from polar_ray.errors import ScorerChanged
from polar_ray.recipe.curate import CurateRecipe
from polar_ray.running.manifest import Manifest, read_manifest
from polar_ray.scorers.fingerprint import same_scorers

REMEDY = (
    "take back what changed in the scorer, or begin anew with another output.path, where all shards are scored again"
)
Manifests = dict[tuple[str, int], Manifest]
"""By run and generation."""


def manifests_of(out: Storage, shards: Mapping[str, Shard]) -> Manifests:
    """Returns the manifests of the runs that scored some shards."""
    keys = sorted({(shard.run, shard.generation) for shard in shards.values()})
    return {key: read_manifest(run_folder(out, *key)) for key in keys}


def refuse_mixture(manifests: Manifests) -> None:
    """Raises ScorerChanged if runs were scored by different scorers."""
    keys = sorted(manifests)
    for key in keys[1:]:
        if not same_scorers(manifests[key].fingerprints, manifests[keys[0]].fingerprints):
            raise ScorerChanged(
                f"the scorer of {key[0]} is not that of {keys[0][0]}, and rewards of two scorers do not compare; no "
                f"version was published: {REMEDY}"
            )


def refuse_beside(manifests: Manifests, now: dict[str, dict[str, str]]) -> None:
    """Raises ScorerChanged if scorers are about to score what will stand beside the rewards of others."""
    for (run, _), manifest in manifests.items():
        if not same_scorers(manifest.fingerprints, now):
            raise ScorerChanged(
                f"the scorer is not that of {run}, whose rewards stay in the table, and rewards of two scorers do not "
                f"compare; no version was published, and nothing was scored: {REMEDY}"
            )


def settings_of(recipe: CurateRecipe) -> str:
    """Returns a hash of how the scorers are set."""
    return hashlib.sha256(msgspec.json.encode(recipe.scorer_settings(), order="deterministic")).hexdigest()


def is_set_otherwise(recipe: CurateRecipe, state: State) -> bool:
    """Whether the shards that are there were scored by scorers that were set otherwise than they are now.

    A version of the tick's own shards holds none of them; and what earlier versions of polar_ray scored does not tell.
    """
    return recipe.over == "all" and bool(state.shards) and state.scorers not in ("", settings_of(recipe))


def refuse_set_otherwise(recipe: CurateRecipe, state: State) -> None:
    """Raises ScorerChanged if a version would hold only rewards of scorers that were set otherwise."""
    if is_set_otherwise(recipe, state):
        raise ScorerChanged(
            f"the scorer is set otherwise than when the {len(state.shards):,} shards of the table were scored, and "
            f"there is nothing new to score; no version was published: {REMEDY}"
        )
