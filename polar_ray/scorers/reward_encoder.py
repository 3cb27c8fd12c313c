"""The base of the encoders of reward models. It loads no torch, so that an encoding task stays small."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from typing_extensions import Self

from polar_ray.models.checkpoint import resolve
from polar_ray.recipe.scorers import RewardModel
from polar_ray.scorers.sight import Sight


class RewardModelEncoder(ABC):
    """Turns groups into the ids that a reward model reads. Loads the tokenizer and the config, no weights."""

    settings: ClassVar[type[RewardModel]]
    """The recipe's class for this kind of scorer."""

    config: Any
    """The settings."""

    @property
    def sight(self) -> Sight:
        """What of messages beside their texts can be in the ids.

        The one source: a task that encodes, a plan and the scorer that reads the ids all ask the encoder, or ids would
        stand beside other groups than they were made of.
        """
        return Sight.of(self.config)

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Makes the encoder for the settings of a recipe.

        Raises:
            CheckpointError: The model's files cannot be found or read.
            TokenizerError: The tokenizer lacks what the model needs.
        """
        return cls(config, resolve(config.model, config.revision, weights=False))

    @classmethod
    def from_pretrained(cls, model: str | Path, **settings: Any) -> Self:
        """Makes the encoder for a local folder or a Hugging Face id; ``settings`` are those of a recipe."""
        return cls.from_config(cls.settings(model=str(model), **settings))

    @abstractmethod
    def __init__(self, config: Any, folder: Path) -> None: ...

    @abstractmethod
    def encode(self, groups: pa.Table) -> pa.Table:
        """Returns a table with ``ENCODED_SCHEMA`` for a table with ``GROUP_SCHEMA``."""

    @abstractmethod
    def decode(self, ids: np.ndarray) -> str:
        """Returns ids as text for a person to read, control tokens included."""
