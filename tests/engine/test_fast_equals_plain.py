"""Law 5 on the engine: packed rows with shared beginnings give what one plain forward per sequence gives.

Random tiny models of each family stand in for checkpoints; windows are shorter than the sequences, and budgets small
enough that beginnings are kept between forwards and cut into chains.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FUSED, NATIVE, POSITIONS, VOCABULARY, make_model, make_sequences

from polar_ray.engine.engine import Engine
from polar_ray.engine.fused import DECODER_LAYERS
from polar_ray.models.dtype import DType

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]


def make_engine(family: str = "Llama", dtype: DType = "float32", **settings: Any) -> Engine:
    return Engine(make_model(family, dtype), device="cpu", dtype=dtype, **settings)


SEQUENCES = make_sequences()


@pytest.mark.parametrize("budget", [64, 100, 4096])
@pytest.mark.parametrize("family", FUSED)
def test_families_with_fused_parts_score_as_plainly(family: str, budget: int) -> None:
    engine = make_engine(family, token_budget=budget)
    assert engine.plain_because is None
    assert engine.fused
    np.testing.assert_allclose(engine.score(SEQUENCES), engine.score_alone(SEQUENCES), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", NATIVE)
def test_families_that_run_as_they_are_score_as_plainly(family: str) -> None:
    engine = make_engine(family, token_budget=100)
    assert engine.plain_because is None
    assert not engine.fused
    np.testing.assert_allclose(engine.score(SEQUENCES), engine.score_alone(SEQUENCES), atol=1e-4, rtol=0)


def test_every_layer_of_the_table_is_tested() -> None:
    assert {f"{family}DecoderLayer" for family in FUSED} == DECODER_LAYERS.keys()


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma2"])
def test_without_a_compiler_the_scores_are_the_same(family: str) -> None:
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/engine']; import numpy as np; import test_fast_equals_plain as t\n"
        f"engine = t.make_engine({family!r}, token_budget=100)\n"
        "assert engine.plain_because is None and engine.fused\n"
        "print(float(np.abs(engine.score(t.SEQUENCES) - engine.score_alone(t.SEQUENCES)).max()))"
    )
    environment = os.environ | {"POLAR_RAY_KERNELS": "off"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert float(result.stdout.split()[-1]) < 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["Llama", "Gemma2"])
def test_half_precision_is_no_further_from_float32_than_plain_half_precision(family: str, dtype: DType) -> None:
    sequences = make_sequences(40, 3)
    exact = make_engine(family).score_alone(sequences)
    engine = make_engine(family, dtype, token_budget=200)
    assert engine.plain_because is None
    packed, plain = (
        float(np.sqrt(((scores - exact) ** 2).mean()))
        for scores in (engine.score(sequences), engine.score_alone(sequences))
    )
    # Equal but for chance: 0.87 to 1.13 in 24 trials of this kind.
    assert packed <= 1.25 * plain


def test_nothing_shared_scores_as_all_shared() -> None:
    shared, flat = make_engine(), make_engine(share=False)
    assert flat.plan(SEQUENCES).tokens > 2 * shared.plan(SEQUENCES).tokens
    np.testing.assert_allclose(flat.score(SEQUENCES), shared.score(SEQUENCES), atol=1e-4, rtol=0)


def test_permuted_sequences_get_the_same_bits() -> None:
    # Laws 3 and 4: what is computed depends on the set of sequences alone.
    engine = make_engine("Qwen2", "bfloat16", token_budget=150)
    scores = engine.score(SEQUENCES)
    order = np.random.default_rng(1).permutation(len(SEQUENCES))
    assert engine.score([SEQUENCES[row] for row in order]).tobytes() == scores[order].tobytes()


def test_the_same_list_gives_the_same_bits_in_another_process() -> None:
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/engine']; import test_fast_equals_plain as t\n"
        "print(t.make_engine(token_budget=150).score(t.SEQUENCES).tobytes().hex())"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split()[-1] == make_engine(token_budget=150).score(SEQUENCES).tobytes().hex()


def test_a_group_of_500_candidates_scores_as_plainly() -> None:
    random = np.random.default_rng(3)
    prefix = random.integers(0, VOCABULARY, 300)
    sequences = [np.append(prefix, random.integers(0, VOCABULARY, 1 + n % 9)).astype(np.int32) for n in range(500)]
    engine = make_engine(token_budget=512)
    assert engine.plan(sequences).tokens < 300 + 500 * 9
    some = range(0, 500, 50)
    expected = engine.score_alone([sequences[row] for row in some])
    np.testing.assert_allclose(engine.score(sequences)[some], expected, atol=1e-4, rtol=0)


def test_a_long_sequence_cut_into_many_forwards_scores_as_plainly() -> None:
    sequence = np.random.default_rng(4).integers(0, VOCABULARY, POSITIONS).astype(np.int32)
    engine = make_engine("Gemma2", token_budget=64)
    assert len(engine.plan([sequence]).forwards) == 10
    np.testing.assert_allclose(engine.score([sequence]), engine.score_alone([sequence]), atol=1e-4, rtol=0)


def test_a_model_outside_the_attention_interface_is_run_plainly_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    engine = make_engine("StableLm")
    assert engine.plain_because is not None
    assert "StableLmModel is run plainly: packed rows make it fail" in caplog.text
    np.testing.assert_allclose(engine.score(SEQUENCES), engine.score_alone(SEQUENCES), atol=1e-4, rtol=0)


def test_a_model_that_is_not_causal_is_run_plainly() -> None:
    model = make_model("Llama")
    for layer in model.backbone.layers:
        layer.self_attn.is_causal = False
    engine = Engine(model, device="cpu", dtype="float32")
    assert engine.plain_because is not None
    assert "packed rows give hidden states that are off by" in engine.plain_because


def test_rotary_positions_that_change_with_the_longest_sequence_take_one_sequence_a_forward() -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": 100,
    }
    engine = Engine(make_model("Phi3", rope_parameters=rope), device="cpu", dtype="float32")
    assert engine.plain_because == "its rotary positions depend on the longest sequence of a forward"
    assert any(len(ids) > 100 for ids in SEQUENCES)
    alone = np.concatenate([engine.score([ids]) for ids in SEQUENCES])
    np.testing.assert_allclose(engine.score(SEQUENCES), alone, atol=1e-5, rtol=0)


def test_the_native_model_is_as_it_was_after_scoring() -> None:
    model = make_model("Llama")
    names = [type(module).__name__ for module in model.backbone.modules() if "Linear" not in type(module).__name__]
    engine = Engine(model, device="cpu", dtype="float32")
    engine.score(SEQUENCES)
    after = [type(module).__name__ for module in model.backbone.modules() if "Linear" not in type(module).__name__]
    assert after == names
    assert model.backbone.config._attn_implementation == "sdpa"
