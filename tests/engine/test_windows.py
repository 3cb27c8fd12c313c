"""Sliding windows that are wider than the probe's sequences: served right, or plainly."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tiny_models import random_model

from polar_ray.engine import fused
from polar_ray.engine.engine import Engine
from polar_ray.engine.probe import NARROW, probe_sequences
from polar_ray.models.dtype import DType
from polar_ray.models.loaded import LoadedModel

torch.set_num_threads(1)
VOCABULARY, POSITIONS, HIDDEN, WINDOW = 300, 400, 64, 90
WINDOWED: dict[str, dict[str, Any]] = {
    "Mistral": {},
    "Qwen2": {"use_sliding_window": True, "max_window_layers": 1},
    "Qwen3": {"use_sliding_window": True, "max_window_layers": 1, "head_dim": 16},
    "Gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},
    "Starcoder2": {},
    "Phi3": {},
    "Gemma3Text": {"head_dim": 16},
}


def make_model(family: str, dtype: DType = "float32", **settings: Any) -> LoadedModel:
    config = getattr(transformers, f"{family}Config")(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        sliding_window=WINDOW,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
        **WINDOWED[family],
        **settings,
    )
    return random_model(family, config, dtype)


def beyond_the_window() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    prefix = random.integers(0, VOCABULARY, 2 * WINDOW)
    return [np.append(prefix, random.integers(0, VOCABULARY, own)).astype(np.int32) for own in (1, 40, 130)]


def test_the_windows_here_are_not_reached_by_the_probe_but_a_narrow_one_is() -> None:
    lengths = [len(ids) for ids in probe_sequences(VOCABULARY, POSITIONS)]
    assert max(lengths) < WINDOW
    assert min(lengths) > NARROW


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", WINDOWED)
def test_a_window_wider_than_the_probe_is_served_from_packed_rows(family: str, dtype: DType) -> None:
    engine = Engine(make_model(family, dtype), device="cpu", dtype=dtype, token_budget=150)
    assert engine.plain_because is None
    if dtype == "float32":
        sequences = beyond_the_window()
        np.testing.assert_allclose(engine.score(sequences), engine.score_alone(sequences), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["Mistral", "Qwen2", "Gemma2"])
def test_a_model_whose_window_would_be_overlooked_is_run_plainly(
    family: str, dtype: DType, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{family}DecoderLayer"
    without = replace(fused.DECODER_LAYERS[name], window=lambda attention: None)
    monkeypatch.setitem(fused.DECODER_LAYERS, name, without)
    engine = Engine(make_model(family, dtype), device="cpu", dtype=dtype)
    assert engine.plain_because is not None
    assert f"with a window of {NARROW} tokens, packed rows give hidden states" in engine.plain_because
    sequences = beyond_the_window()
    atol = {"float32": 1e-4, "bfloat16": 0.1}[dtype]
    np.testing.assert_allclose(engine.score(sequences), engine.score_alone(sequences), atol=atol, rtol=0)


def test_a_window_that_no_layer_has_does_not_matter() -> None:
    engine = Engine(make_model("Qwen2", layer_types=["full_attention"] * 2), device="cpu", dtype="float32")
    assert engine.plain_because is None


@pytest.mark.parametrize("family", WINDOWED)
def test_the_windows_are_as_they_were_after_the_probe(family: str) -> None:
    model = make_model(family)
    before = [vars(module).get("sliding_window") for module in model.backbone.modules()]
    Engine(model, device="cpu", dtype="float32")
    assert model.backbone.config.sliding_window == WINDOW
    assert [vars(module).get("sliding_window") for module in model.backbone.modules()] == before
