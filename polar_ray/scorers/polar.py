"""POLAR-7B and POLAR-1.8B: how close a candidate is to a reference, by a model trained for that."""

from pathlib import Path

from polar_ray.data.group import Group
from polar_ray.models.adapter import Adapter
from polar_ray.models.internlm2 import load_internlm2_reward
from polar_ray.models.loaded import LoadedModel
from polar_ray.recipe.scorers import Polar, References
from polar_ray.scorers.polar_encoder import PolarEncoder
from polar_ray.scorers.reward_model import RewardModelScorer
from polar_ray.scorers.self_check import plain_group

__all__ = ["PolarEncoder", "PolarScorer"]


class PolarScorer(RewardModelScorer):
    """Scores candidates with POLAR (arXiv 2507.05197). Rewards compare within one prompt and reference only.

    Example:
        >>> scorer = PolarScorer.from_pretrained("/models/POLAR-7B")
        >>> scorer.score([group])[0][0].reward
    """

    settings = Polar
    encoder_class = PolarEncoder
    scoring_code = "polar-1"

    @classmethod
    def load_model(cls, config: Polar, folder: Path, adapter: Adapter | None) -> LoadedModel:
        return load_internlm2_reward(folder, config.dtype, adapter)

    def known_order(self) -> Group:
        # From POLAR's model card: POLAR-7B gives -0.57 and -11.03.
        return plain_group("What is the capital of China?", ("Beijing.", "Shanghai."), reference="Beijing.")

    def _references(self) -> References:
        references: References = self.config.references
        return references
