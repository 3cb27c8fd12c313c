"""Random tiny models of each family that the engine runs, and sequences that share beginnings."""

from typing import Any

import numpy as np
import torch
import transformers

from polar_ray.models.dtype import TORCH_DTYPES, DType
from polar_ray.models.loaded import LoadedModel, exact_attention, linear_head

VOCABULARY, POSITIONS, HIDDEN = 500, 640, 64
SHAPES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
}
FUSED: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {"sliding_window": 9},
    "Qwen2": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "Qwen3": {"head_dim": 24},
    "Gemma": {"head_dim": 16},
    "Gemma2": {"head_dim": 16, "sliding_window": 9, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 3.0},
}
NATIVE: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": 4},
    "Phi3": {},
    "Olmo2": {},
    "Starcoder2": {"sliding_window": 9},
    "SmolLM3": {},
    "Glm4": {"head_dim": 16},
    "GPTNeoX": {},
    "Gemma3Text": {"head_dim": 16, "sliding_window": 9},
}


def make_model(family: str, dtype: DType = "float32", **settings: Any) -> LoadedModel:
    config = getattr(transformers, f"{family}Config")(**SHAPES | (FUSED | NATIVE).get(family, {}) | settings)
    return random_model(family, config, dtype)


def random_model(family: str, config: Any, dtype: DType) -> LoadedModel:
    """Returns a model of a family with random weights and a head of one label."""
    config._attn_implementation = exact_attention(config)
    torch.manual_seed(0)
    backbone = getattr(transformers, f"{family}Model")(config).requires_grad_(False).eval()
    for parameter in backbone.parameters():
        # Larger than a fresh model's, so that attention is far from uniform and biases and norms count.
        parameter.data = torch.randn_like(parameter) * 0.15 + (0.5 if parameter.dim() == 1 else 0.0)
    backbone.to(TORCH_DTYPES[dtype])
    head = linear_head(torch.randn(1, config.hidden_size) / config.hidden_size**0.5)
    return LoadedModel(backbone, head, config.vocab_size, config.max_position_embeddings)


def make_sequences(groups: int = 3, candidates: int = 4) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    system = random.integers(0, VOCABULARY, 20)
    sequences = []
    for _ in range(groups):
        prompt = np.concatenate([system, random.integers(0, VOCABULARY, random.integers(10, 150))])
        for length in random.integers(1, 60, candidates):
            sequences.append(np.concatenate([prompt, random.integers(0, VOCABULARY, length)]).astype(np.int32))
    # A prompt of its own, a copy, and one that goes on where another ends.
    own = random.integers(0, VOCABULARY, 33).astype(np.int32)
    return [*sequences, own, sequences[0], np.append(sequences[1], own)]
