"""Law 5 in float32: held to float64, the engine is no further off than transformers' own forwards are.

The model is badly conditioned on purpose: grouped queries, a rope_theta of 5e7, sequences of 1,000 tokens and rewards
far beyond 1, from large random weights.
"""

from functools import cache

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from polar_ray.engine.device import MOST_ROUNDING, allowed_rounding
from polar_ray.engine.engine import Engine
from polar_ray.models.loaded import LoadedModel, linear_head

torch.set_num_threads(1)


def model() -> LoadedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 5e7},
        pad_token_id=None,
        initializer_range=1.0,
    )
    config._attn_implementation = "eager"
    backbone = LlamaModel(config).requires_grad_(False).eval()
    return LoadedModel(backbone, linear_head(torch.randn(1, 64) * 0.6), 1000, 4096)


def make_sequences() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    prefixes = [random.integers(4, 990, 900) for _ in range(2)]
    return [np.append(p, random.integers(4, 990, own)).astype(np.int32) for p in prefixes for own in (20, 60, 100)]


SEQUENCES = make_sequences()


@cache
@torch.inference_mode()
def plain(dtype: torch.dtype) -> np.ndarray:
    """One forward of transformers for each sequence; of the rotary positions, whose code is in float32, the same."""
    loaded = model()
    backbone, head = loaded.backbone.to(dtype), loaded.head.to(dtype)
    backbone.rotary_emb = type(backbone.rotary_emb)(backbone.config)
    states = [backbone(input_ids=torch.tensor([ids.tolist()]), use_cache=False).last_hidden_state for ids in SEQUENCES]
    return np.array([float(head(state[0, -1])) for state in states])


@cache
def fast() -> np.ndarray:
    engine = Engine(model(), device="cpu", dtype="float32", token_budget=4096)
    assert engine.plain_because is None
    return engine.score(SEQUENCES)[:, 0].astype(np.float64)


def off(rewards: np.ndarray) -> float:
    return float(np.sqrt(np.mean((rewards - plain(torch.float64)) ** 2)))


def test_the_rewards_are_such_as_float32_has_trouble_with() -> None:
    assert np.abs(plain(torch.float64)).max() > 5
    assert off(plain(torch.float32)) > 1e-5


def test_the_engine_is_no_further_from_float64_than_plain_forwards() -> None:
    # The root mean square of 6 numbers has a standard deviation of 30 %.
    assert off(fast()) <= 1.6 * off(plain(torch.float32))


def test_what_is_allowed_is_what_float32_itself_needs() -> None:
    exact = plain(torch.float64)
    for rewards in (fast(), plain(torch.float32)):
        relative = np.abs(rewards - exact) / np.maximum(1, np.abs(exact))
        assert relative.max() <= allowed_rounding(relative, "float32") <= MOST_ROUNDING["float32"]


@pytest.mark.parametrize(("dtype", "usual", "wrong"), [("bfloat16", 0.01, 0.2), ("float32", 1e-6, 5e-4)])
def test_a_reward_that_stands_out_is_beyond_and_so_are_all_where_the_mean_is_too_large(
    dtype: str, usual: float, wrong: float
) -> None:
    sample = np.abs(np.random.default_rng(0).normal(0, usual, 1000))
    assert sample.max() < allowed_rounding(sample, dtype)  # type: ignore[arg-type]
    assert allowed_rounding(np.append(sample, wrong), dtype) < wrong  # type: ignore[arg-type]
    assert allowed_rounding(np.full(1000, wrong), dtype) < wrong  # type: ignore[arg-type]
