"""What the engine's benchmark scores: a random model in POLAR's shapes, groups of candidates, and what they cost."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaModel

from polar_ray.models.loaded import LoadedModel, linear_head

POSITIONS = 32768
VOCABULARY = 32000

Group = list[np.ndarray]
"""The candidates of a prompt, int32 ids ``[length]`` each, prompt and reference included."""


def polar_like(dtype: torch.dtype, vocabulary: int = VOCABULARY) -> LoadedModel:
    """Returns a random model with the shapes of a small POLAR: 12 layers, about 110 million parameters.

    Whatever it computes in, its weights are stored in bfloat16, as those of POLAR and InternLM2-Reward are: what
    bfloat16 then differs by from float32 is what it rounds on the way, and nothing that was lost before.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=POSITIONS,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        pad_token_id=None,
    )
    config._attn_implementation = "sdpa"
    backbone = LlamaModel(config).requires_grad_(False).eval()
    for weight in backbone.parameters():
        weight.copy_(weight.bfloat16())
    head = linear_head((torch.randn(1, 768) / 28).bfloat16().float())
    return LoadedModel(backbone.to(dtype), head, vocabulary, POSITIONS)


def generated_groups(count: int, candidates: int) -> list[Group]:
    """Returns groups of random ids in the POLAR layout, with lengths as in chat data."""
    random = np.random.default_rng(0)

    def some(length: float) -> np.ndarray:
        return random.integers(10, 31000, int(length)).astype(np.int32)

    groups = []
    for _ in range(count):
        prompt, reference = some(random.uniform(50, 400)), some(random.uniform(50, 600))
        prefix = np.concatenate([prompt, reference, [5], prompt])
        lengths = np.clip(np.exp(random.normal(4.9, 0.8, candidates)), 20, 800)
        groups.append([np.concatenate([prefix, some(length), [6]]).astype(np.int32) for length in lengths])
    return groups


def real_groups(path: Path, tokenizer: Path, count: int, candidates: int) -> list[Group]:
    """Returns groups of a Parquet file in the POLAR layout; ids are folded into the small vocabulary."""
    import pyarrow.parquet as pq
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    rows = pq.read_table(path, columns=["prompt", "reference", "outputs"]).to_pylist()
    # Spread over the file.
    rows = [row for row in rows if row["reference"]][:: max(1, len(rows) // count)][:count]

    def ids(messages: list[dict[str, str]]) -> list[int]:
        found: list[int] = pieces.encode("\n".join(message["content"] or "" for message in messages))
        return [number % 31000 + 10 for number in found]

    groups = []
    for row in rows:
        prompt, reference = ids(row["prompt"]), ids(row["reference"])
        prefix = [1, *prompt, *reference, 5, *prompt]
        outputs = row["outputs"][:candidates]
        groups.append([np.array([*prefix, *ids(output["content"]), 6], np.int32) for output in outputs])
    return groups


def work(config: Any, tokens: int, attention: int, reads: int | None) -> float:
    """Returns the floating-point operations of the matrix products of the linear layers and of attention.

    Args:
        config: The backbone's config.
        tokens: Tokens that go through the layers.
        attention: Pairs of a token and a token that it attends to.
        reads: Tokens for which the last layer gives more than keys and values; None for all.
    """
    head = config.hidden_size // config.num_attention_heads
    keys = 2 * config.hidden_size * config.num_key_value_heads * head
    rest = 2 * config.hidden_size * config.hidden_size + 3 * config.hidden_size * config.intermediate_size
    layer = 2 * tokens * (keys + rest) + 4 * config.hidden_size * attention
    if reads is None:
        return float(config.num_hidden_layers * layer)
    last = 2 * tokens * keys + 2 * reads * rest
    return float((config.num_hidden_layers - 1) * layer + last)
