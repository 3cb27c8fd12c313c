"""Reward models that are sequence classifiers of transformers with one label (Skywork, Llama, Qwen, Gemma 2, …).

Prompt and candidate make one conversation, which goes through the model's chat template; the reward is the head's
output at the last token. References are not used.
"""

from pathlib import Path
from typing import ClassVar

from polar_ray.data.group import Group
from polar_ray.models.adapter import Adapter
from polar_ray.models.chat_tokenizer import chat_template_hash
from polar_ray.models.checkpoint import resolve
from polar_ray.models.classifier import load_classifier
from polar_ray.models.loaded import LoadedModel
from polar_ray.recipe.scorers import RewardModel, SequenceClassifier
from polar_ray.scorers.reward_encoder import RewardModelEncoder
from polar_ray.scorers.reward_model import RewardModelScorer
from polar_ray.scorers.self_check import plain_group
from polar_ray.scorers.sequence_classifier_encoder import SequenceClassifierEncoder


class SequenceClassifierScorer(RewardModelScorer):
    """Scores each candidate as the last part of the conversation that its prompt begins.

    Example:
        >>> scorer = SequenceClassifierScorer.from_pretrained("Skywork/Skywork-Reward-V2-Llama-3.1-8B")
        >>> scorer.score([group])[0][0].reward
    """

    settings: ClassVar[type[RewardModel]] = SequenceClassifier
    encoder_class: ClassVar[type[RewardModelEncoder]] = SequenceClassifierEncoder
    scoring_code: ClassVar[str] = "1"

    @classmethod
    def load_model(cls, config: SequenceClassifier, folder: Path, adapter: Adapter | None) -> LoadedModel:
        """Loads the classifier in a folder.

        Raises:
            CheckpointError: It is not a causal classifier of transformers with one label and a whole set of tensors.
        """
        return load_classifier(folder, config.dtype, adapter)

    @classmethod
    def fingerprint(cls, config: SequenceClassifier) -> dict[str, str]:
        """Returns all that can change a score, by name; the chat template by the hash of its source.

        Raises:
            CheckpointError: The model's files cannot be found.
            TokenizerError: There is no chat template.
        """
        parts = super().fingerprint(config)
        # The setting may be the path of a file, which says nothing about what is in it.
        del parts["setting:chat_template"]
        folder = resolve(config.model, config.revision, weights=False)
        return parts | {"chat_template": chat_template_hash(folder, config.chat_template)}

    def known_order(self) -> Group:
        """Returns a question with a helpful answer and a useless one."""
        return plain_group(
            "What is the capital of France, and on which river does it lie?",
            ("The capital of France is Paris. It lies on the river Seine.", "banana banana purple 7 7 7 of the and"),
        )
