"""internlm2-1_8b-reward, -7b-reward and -20b-reward: how good a conversation's last answer is."""

from pathlib import Path

from polar_ray.data.group import Group
from polar_ray.models.adapter import Adapter
from polar_ray.models.internlm2 import load_internlm2_reward
from polar_ray.models.loaded import LoadedModel
from polar_ray.recipe.scorers import InternLM2Reward
from polar_ray.scorers.internlm2_reward_encoder import InternLM2RewardEncoder
from polar_ray.scorers.reward_model import RewardModelScorer
from polar_ray.scorers.self_check import plain_group

__all__ = ["InternLM2RewardEncoder", "InternLM2RewardScorer"]


class InternLM2RewardScorer(RewardModelScorer):
    """Scores prompt and candidate as one conversation; references are not used.

    A reward is the model's raw output, softly inside -5 to 5 by its training.

    Example:
        >>> scorer = InternLM2RewardScorer.from_pretrained("internlm/internlm2-7b-reward")
        >>> scorer.score([group])[0][0].reward
    """

    settings = InternLM2Reward
    encoder_class = InternLM2RewardEncoder
    scoring_code = "internlm2_reward-1"

    @classmethod
    def load_model(cls, config: InternLM2Reward, folder: Path, adapter: Adapter | None) -> LoadedModel:
        return load_internlm2_reward(folder, config.dtype, adapter)

    def known_order(self) -> Group:
        # From the model card: 0.77 and -2.22.
        return plain_group(
            "Hello! What's your name?",
            ("My name is InternLM2! A helpful AI assistant. What can I do for you?", "I have no idea."),
        )
