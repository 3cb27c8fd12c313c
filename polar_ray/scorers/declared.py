"""What a scorer's settings alone say of its fingerprint: told without its code and its model."""

from collections.abc import Mapping

from polar_ray.recipe.scorers import Custom, Length, RewardModel, ScorerConfig
from polar_ray.recipe.secrets import digest
from polar_ray.scorers.fingerprint import SETTING

NAMES = frozenset({"model", "revision", "adapter", "adapter_revision"})
"""Settings that say where a model is. Its files are in the fingerprint by their hashes, so their names are not."""
WITHOUT_EFFECT = NAMES | {"device", "token_budget", "self_check", "known_scores", "kind"}
"""Settings of a scorer with a model that are not in its fingerprint: they change no score by more than rounding."""
LATER = {"text_closeness": {"group_timeout_s"}}
"""Settings that came later, by kind: at their defaults they are left out, as in the fingerprints before them."""


def declared(config: ScorerConfig) -> dict[str, str]:
    """Returns the entries of a scorer's fingerprint that its settings decide."""
    if isinstance(config, Length):
        return {"settings": config.model_dump_json()}
    if isinstance(config, Custom):
        settings = {name: digest(value) for name, value in config.settings.items()}
        return {"target": config.target} | _entries(settings)
    exclude = WITHOUT_EFFECT if isinstance(config, RewardModel) else {"kind"}
    fields, later = type(config).model_fields, LATER.get(config.kind, set())
    settings = {
        name: value
        for name, value in config.model_dump(mode="json", exclude=set(exclude)).items()
        if name not in later or value != fields[name].default
    }
    return {"kind": str(config.kind)} | _entries(settings)


def names_of(config: ScorerConfig) -> dict[str, str | None]:
    """Returns where a scorer's model is said to be; nothing where it has none."""
    return config.model_dump(include=set(NAMES)) if isinstance(config, RewardModel) else {}


def _entries(settings: Mapping[str, object]) -> dict[str, str]:
    return {f"{SETTING}{name}": str(value) for name, value in sorted(settings.items())}
