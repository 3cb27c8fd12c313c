"""Which class each kind of scorer is. The one table in which a scorer is named.

Classes are named by path and imported when they are needed, so that reading a recipe loads no torch.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import cast

from polar_ray.recipe.scorers import ScorerConfig
from polar_ray.scorers.base import Encoder, Scorer


@dataclass(frozen=True)
class Entry:
    """Where a kind of scorer lives: ``module:class`` of the scorer and, if it reads ids, of its encoder.

    The class is made by ``from_config(config)``; the encoder likewise.
    """

    scorer: str
    encoder: str | None = None
    needs_reference: bool = False


CATALOG: dict[str, Entry] = {
    "length": Entry("polar_ray.scorers.length:LengthScorer"),
    "text_closeness": Entry("polar_ray.scorers.text_closeness:TextClosenessScorer", needs_reference=True),
    "custom": Entry("polar_ray.scorers.custom:CustomScorer"),
    "polar": Entry(
        "polar_ray.scorers.polar:PolarScorer",
        "polar_ray.scorers.polar_encoder:PolarEncoder",
        needs_reference=True,
    ),
    "internlm2_reward": Entry(
        "polar_ray.scorers.internlm2_reward:InternLM2RewardScorer",
        "polar_ray.scorers.internlm2_reward_encoder:InternLM2RewardEncoder",
    ),
    "sequence_classifier": Entry(
        "polar_ray.scorers.sequence_classifier:SequenceClassifierScorer",
        "polar_ray.scorers.sequence_classifier_encoder:SequenceClassifierEncoder",
    ),
}


def entry_of(config: ScorerConfig) -> Entry:
    """Returns the catalog's entry for a scorer's settings."""
    return CATALOG[config.kind]


def make_scorer(config: ScorerConfig) -> Scorer:
    """Loads the scorer: weights, tokenizer, self-check. Raises what the scorer's ``from_config`` raises."""
    return cast(Scorer, _class_at(entry_of(config).scorer).from_config(config))


def make_encoder(config: ScorerConfig) -> Encoder | None:
    """Loads the scorer's encoder (a tokenizer, no weights), or returns None for a scorer that reads text."""
    path = entry_of(config).encoder
    return None if path is None else cast(Encoder, _class_at(path).from_config(config))


def fingerprint_of(config: ScorerConfig) -> dict[str, str]:
    """Returns what can change a score, by name: settings, scoring code, model files, tokenizer, template."""
    return cast(dict[str, str], _class_at(entry_of(config).scorer).fingerprint(config))


def extras_of(config: ScorerConfig) -> tuple[str, ...]:
    """Returns the names of the columns that a scorer adds; those of a custom one are known once it is made."""
    return cast(tuple[str, ...], _class_at(entry_of(config).scorer).extras)


def _class_at(path: str):  # type: ignore[no-untyped-def]
    module, name = path.split(":")
    return getattr(import_module(module), name)
