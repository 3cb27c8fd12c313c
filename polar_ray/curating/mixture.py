"""Rewards of two scorers do not compare: they do not come into one version, and that is found before scoring."""

from collections.abc import Mapping

from polar_ray.curating.shards import run_folder
from polar_ray.curating.state import Shard, State
from polar_ray.data.storage import Storage
from polar_ray.errors import CheckpointError, ScorerChanged
from polar_ray.recipe.curate import CurateRecipe
from polar_ray.recipe.scorers import RewardModel
from polar_ray.running.manifest import Manifest, read_manifest
from polar_ray.scorers.declared import NAMES, declared, names_of
from polar_ray.scorers.fingerprint import SETTING, changed_keys, hashed, same_scorers

REMEDY = (
    "take back what changed in the scorer, or begin anew with another output.path, where all shards are scored again"
)
WHAT = ("kind", "target", "settings")
"""Entries of a fingerprint, beside its settings, that say which scorer it is of."""
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


def set_otherwise(out: Storage, recipe: CurateRecipe, state: State) -> str | None:
    """Returns how the scorers are set otherwise than those that scored the shards that are there; None if they are not.

    A version of the tick's own shards holds none of them. All runs in a table have the same scorers: the newest tells.
    """
    if recipe.over != "all" or not state.shards:
        return None
    newest = max((shard.run, shard.generation) for shard in state.shards.values())
    manifest = read_manifest(run_folder(out, *newest))
    scorers = recipe.named_scorers
    if scorers.keys() != manifest.fingerprints.keys():
        return "the names of the scorers"
    for name, scorer in scorers.items():
        before, where = manifest.fingerprints[name], f"scorers.{name}" if name else "scorer"
        held = manifest.recipe["scorers"][name] if name else manifest.recipe["scorer"]
        if held["kind"] != scorer.kind:
            return f"{where}.kind"
        now = declared(scorer)
        settings = {key: value for key, value in hashed(before).items() if key in WHAT or key.startswith(SETTING)}
        if changed := changed_keys(settings, now):
            return ", ".join(f"{where}.{key.removeprefix(SETTING)}" for key in changed[:3])
        if isinstance(scorer, RewardModel) and names_of(scorer) != {key: held.get(key) for key in NAMES}:
            files = {key: value for key, value in before.items() if key.startswith("file:")}
            if files != _files(scorer):
                return f"{where}.model"
    return None


def refuse_set_otherwise(out: Storage, recipe: CurateRecipe, state: State) -> None:
    """Raises ScorerChanged if a version would hold only rewards of scorers that were set otherwise."""
    if changed := set_otherwise(out, recipe, state):
        raise ScorerChanged(
            f"the scorer is set otherwise ({changed}) than when the {len(state.shards):,} shards of the table were "
            f"scored, and there is nothing new to score; no version was published: {REMEDY}"
        )


def _files(scorer: RewardModel) -> dict[str, str] | None:
    """The files of a model, as a fingerprint has them; None where they are not here, so that nobody can tell."""
    # Only where a checkpoint was moved since the last shard: an idle tick is to load next to nothing.
    from polar_ray.models.checkpoint import model_hashes

    try:
        hashes = model_hashes(scorer.model, scorer.revision, scorer.adapter, scorer.adapter_revision)
    except CheckpointError:
        return None
    return {f"file:{name}": digest for name, digest in hashes.items()}
