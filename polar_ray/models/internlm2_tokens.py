"""The config, the tokenizer and the control tokens of InternLM2 reward models. Loads no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polar_ray.errors import CheckpointError, TokenizerError
from polar_ray.models.checkpoint import read_config
from polar_ray.models.control_tokens import read_tokenizer_config
from polar_ray.models.damage import damage_of
from polar_ray.models.tokenizer import TextTokenizer, load_tokenizer

REWARD_TOKEN = "<|reward|>"
"""POLAR's separator between the reference's half and the candidate's; the end token of internlm2-*-reward."""


@dataclass(frozen=True)
class InternLM2Tokens:
    """What an encoder of an InternLM2 reward model needs.

    Attributes:
        tokenizer: Encodes text.
        bos: Id of ``<s>``.
        named_reward: Id of the control token that is spelt ``<|reward|>``.
        end: Id at which the reward is read: ``reward_token_id`` of the config. In POLAR that is
            ``[UNUSED_TOKEN_130]``, in internlm2-*-reward ``<|reward|>``.
        max_positions: The model's longest sequence.
    """

    tokenizer: TextTokenizer
    bos: int
    named_reward: int
    end: int
    max_positions: int


def read_internlm2_config(folder: Path) -> dict[str, Any]:
    """Returns the config of an InternLM2 reward model.

    Raises:
        CheckpointError: It is missing or another model's.
    """
    config = read_config(folder)
    if config.get("model_type") != "internlm2" or "reward_token_id" not in config:
        raise CheckpointError(
            f"{folder} holds a model of type {config.get('model_type')!r} with the architectures "
            f"{config.get('architectures')}, not an InternLM2 reward model (model_type internlm2 with a "
            "reward_token_id). Use the scorer kind that fits it, such as sequence_classifier."
        )
    return config


def load_internlm2_tokens(folder: Path) -> InternLM2Tokens:
    """Loads the tokenizer of an InternLM2 reward model and checks its control tokens against the config.

    Raises:
        CheckpointError: The config is missing or another model's.
        TokenizerError: A control token is missing, or config and tokenizer contradict each other.
    """
    with damage_of(folder, TokenizerError):
        return _tokens(folder)


def _tokens(folder: Path) -> InternLM2Tokens:
    config = read_internlm2_config(folder)
    tokenizer = load_tokenizer(folder)
    bos = tokenizer.token_id("<s>")
    if config.get("bos_token_id", bos) != bos:
        raise TokenizerError(
            f"{folder}: config.json says that BOS is id {config['bos_token_id']}, the tokenizer says that it is {bos}. "
            "Download config and tokenizer of the same model."
        )
    if read_tokenizer_config(folder).get("add_bos_token") is False:
        raise TokenizerError(
            f"{folder}: tokenizer_config.json has add_bos_token false, but InternLM2 reward models were trained with "
            "BOS. Use the model's original tokenizer_config.json."
        )
    end = config["reward_token_id"]
    if not 0 <= end < min(tokenizer.vocab_size, config["vocab_size"]):
        raise TokenizerError(
            f"{folder}: reward_token_id {end} lies outside the vocabulary (tokenizer {tokenizer.vocab_size}, model "
            f"{config['vocab_size']}). Download config and tokenizer of the same model."
        )
    return InternLM2Tokens(
        tokenizer, bos, tokenizer.token_id(REWARD_TOKEN), int(end), int(config["max_position_embeddings"])
    )
