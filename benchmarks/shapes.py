"""Random models with the shapes of real ones, made on the device that they are for."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaModel

from polar_ray.models.dtype import TORCH_DTYPES, DType
from polar_ray.models.loaded import LoadedModel, linear_head

VOCABULARY = 92544
POSITIONS = 32768
SHAPES: dict[str, dict[str, Any]] = {
    "polar-100m": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    },
    # Those of internlm2_5-1_8b, on which POLAR-1_8B is built.
    "polar-1.8b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
    },
    # As in internlm/POLAR-7B's config.json.
    "polar-7b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
"""By name, the shapes of InternLM2 as Llama."""


def random_model(name: str, dtype: DType, device: torch.device) -> LoadedModel:
    """Returns a random model of these shapes, its weights on the device in their dtype from the start."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=POSITIONS,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        pad_token_id=None,
        **SHAPES[name],
    )
    config._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(TORCH_DTYPES[dtype])
    try:
        with device:
            backbone = LlamaModel(config)
    finally:
        torch.set_default_dtype(before)
    # Made in half precision, the rotary frequencies would be rounded.
    backbone.rotary_emb = type(backbone.rotary_emb)(config=config).to(device)
    hidden = config.hidden_size
    head = linear_head(torch.randn(1, hidden) / hidden**0.5)
    return LoadedModel(backbone.requires_grad_(False).eval(), head, VOCABULARY, POSITIONS)
