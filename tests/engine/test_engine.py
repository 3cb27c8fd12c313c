"""The engine on tiny checkpoints, against plain forwards and the original's rewards."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_ray.engine.device import MOST_ROUNDING, USUAL_ROUNDING
from polar_ray.engine.engine import Engine
from polar_ray.errors import RecipeError
from polar_ray.models.internlm2 import load_internlm2_reward

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "golden" / "polar" / "polar_tiny_a"
CASES: list[dict[str, Any]] = json.loads((FOLDER / "expected.json").read_text())["single"]
SEQUENCES = [np.array(case["input_ids"], np.int32) for case in CASES]
REWARDS = np.array([case["reward"] for case in CASES])


def make_engine(dtype: Any = "float32", **settings: Any) -> Engine:
    return Engine(load_internlm2_reward(FOLDER, dtype), device="cpu", dtype=dtype, **settings)


ENGINE = make_engine()


@given(st.lists(st.integers(0, len(CASES) - 1), min_size=1, max_size=20), st.integers(1, 400))
@settings(deadline=None, max_examples=40)
def test_no_reward_depends_on_company_or_budget(rows: list[int], budget: int) -> None:
    # T2: padding invariance; any mix, any batch.
    ENGINE.token_budget = budget
    rewards = ENGINE.score([SEQUENCES[row] for row in rows])[:, 0]
    np.testing.assert_allclose(rewards, REWARDS[rows], atol=1e-4, rtol=0)


def test_threads_that_share_an_engine_or_a_process_get_the_rewards_that_one_gets() -> None:
    engines = [make_engine(), make_engine()]
    expected = engines[0].score(SEQUENCES)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda number: engines[number % 2].score(SEQUENCES), range(40)))
    for rewards in found:
        np.testing.assert_array_equal(rewards, expected)


def test_the_token_that_is_read_is_the_last_one_even_if_it_is_the_pad_or_end_id() -> None:
    # T1: code that searches for a pad id (2 here) reads another token.
    ends_with_pad = [row for row, ids in enumerate(SEQUENCES) if ids[-1] == 2]
    pad_inside = [row for row, ids in enumerate(SEQUENCES) if 2 in ids[:-1]]
    assert ends_with_pad
    assert pad_inside
    rewards = make_engine().score(SEQUENCES)[:, 0]
    for row in ends_with_pad + pad_inside:
        assert rewards[row] == pytest.approx(REWARDS[row], abs=1e-4)
        before_pad = int(np.argmax(SEQUENCES[row] == 2)) - 1
        wrong = make_engine().score([SEQUENCES[row][: before_pad + 1]])[0, 0]
        assert abs(wrong - REWARDS[row]) > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_company_stays_within_the_tolerance_of_each_dtype(dtype: Any) -> None:
    engine = make_engine(dtype)
    together = engine.score(SEQUENCES)[:, 0]
    alone = np.array([engine.score([ids])[0, 0] for ids in SEQUENCES])
    allowed = USUAL_ROUNDING[dtype] if dtype == "float32" else MOST_ROUNDING[dtype]
    assert (np.abs(together - alone) <= allowed * np.maximum(1, np.abs(alone))).all()
    if dtype == "float32":
        np.testing.assert_allclose(together, REWARDS, atol=1e-4, rtol=0)
    else:
        # Rounding is close to normal: none of 16 rewards is beyond 4 times what plain forwards are off by.
        plain = engine.score_alone(SEQUENCES)[:, 0] - REWARDS
        assert (np.abs(together - REWARDS) <= 4 * np.sqrt(np.mean(plain**2))).all()


def test_scoring_the_same_list_twice_gives_the_same_bits() -> None:
    engine = make_engine("bfloat16", token_budget=100)
    first, second = engine.score(SEQUENCES), engine.score(SEQUENCES)
    assert first.tobytes() == second.tobytes()


def test_the_head_runs_in_float32() -> None:
    # T15: a bfloat16 head rounds rewards to few values, and makes ties.
    rewards = torch.from_numpy(make_engine("bfloat16").score(SEQUENCES)[:, 0])
    assert (rewards.bfloat16().float() != rewards).any()


def test_the_rotary_frequencies_stay_float32() -> None:
    model = load_internlm2_reward(FOLDER, "bfloat16")
    plain = model.backbone.rotary_emb.inv_freq.clone()
    Engine(model, device="cpu", dtype="bfloat16")
    assert model.backbone.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(model.backbone.rotary_emb.inv_freq, plain)


def test_dropout_is_off_even_if_the_model_comes_in_training_mode() -> None:
    # T25
    model = load_internlm2_reward(FOLDER, "float32")
    model.backbone.train()
    for layer in model.backbone.layers:
        layer.self_attn.attention_dropout = 0.5
    rewards = Engine(model, device="cpu", dtype="float32").score(SEQUENCES)[:, 0]
    np.testing.assert_allclose(rewards, REWARDS, atol=1e-4, rtol=0)


def test_one_sequence_gives_one_row() -> None:
    # T24: a squeezed batch of one loses its dimension.
    assert ENGINE.score(SEQUENCES[:1]).shape == (1, 1)
    assert ENGINE.score([]).shape == (0, 1)
    assert ENGINE.score(SEQUENCES).dtype == np.float32


def test_non_finite_outputs_are_returned_as_they_are() -> None:
    model = load_internlm2_reward(FOLDER, "float32")
    with torch.no_grad():
        model.backbone.embed_tokens.weight[720] = float("nan")
    engine = Engine(model, device="cpu", dtype="float32")
    rewards = engine.score(SEQUENCES)[:, 0]
    has_it = np.array([720 in ids for ids in SEQUENCES])
    assert has_it.any()
    assert np.isnan(rewards[has_it]).all()
    np.testing.assert_allclose(rewards[~has_it], REWARDS[~has_it], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("ids", "message"),
    [([], "has no tokens"), ([1, 1000], "vocabulary has 1000"), ([-1, 5], "vocabulary has 1000")],
)
def test_ids_that_the_model_cannot_take_are_refused(ids: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ENGINE.score([SEQUENCES[0], np.array(ids, np.int32)])
    with pytest.raises(ValueError, match=message):
        ENGINE.score_alone([np.array(ids, np.int32)])


@pytest.mark.parametrize("ids", [[1, 2], np.array([1.0, 2.0]), torch.tensor([1, 2])], ids=["list", "floats", "tensor"])
def test_what_is_no_array_of_integers_is_refused(ids: Any) -> None:
    with pytest.raises(TypeError, match="Sequence 0 must be a numpy array of integers, not"):
        ENGINE.score([ids])


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_that_is_not_there_is_refused() -> None:
    with pytest.raises(RecipeError, match="torch sees no CUDA device"):
        Engine(load_internlm2_reward(FOLDER, "float32"), device="cuda")


OUT_OF_MEMORY = """
import resource, sys
import numpy as np
import torch
from pathlib import Path
from polar_ray.engine.engine import Engine
from polar_ray.models.internlm2 import load_internlm2_reward

torch.set_num_threads(1)
# The engine does not change how memory is allocated where the address space is limited.
resource.setrlimit(resource.RLIMIT_AS, (2**45, 2**45))
model = load_internlm2_reward(Path(sys.argv[1]), "float32")
engine = Engine(model, device="cpu", dtype="float32", token_budget=200_000)
rng = np.random.default_rng(0)
sequences = [rng.integers(4, 900, length).astype(np.int32) for length in rng.integers(300, 1000, 150)]
sequences += [rng.integers(4, 900, int(length)).astype(np.int32) for length in sys.argv[3:]]
alone = [engine.score([ids])[0, 0] for ids in sequences[:3]]
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = used + int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
together = engine.score(sequences)[:3, 0]
print(engine.token_budget, float(np.abs(together - alone).max()))
"""


def run_with_memory(megabytes: int, *more_lengths: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", OUT_OF_MEMORY, str(FOLDER), *map(str, (megabytes, *more_lengths))]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux does")
def test_running_out_of_memory_halves_the_budget_and_scores_the_same() -> None:
    result = run_with_memory(120)
    assert result.returncode == 0, result.stderr
    budget, difference = result.stdout.split()
    assert 1000 < int(budget) < 200_000
    assert float(difference) < 1e-4


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux does")
def test_a_single_sequence_that_does_not_fit_is_a_clear_error() -> None:
    result = run_with_memory(100, 50_000)
    assert result.returncode != 0
    # Which one is the first that does not fit depends on what the process holds beside.
    assert re.search(r"ScoringError: A single sequence of \d+ tokens does not fit in the memory of cpu", result.stderr)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_cuda_gives_the_original_rewards(dtype: Any) -> None:
    engine = Engine(load_internlm2_reward(FOLDER, dtype), device="auto", dtype=dtype, token_budget=150)
    assert engine.device.type == "cuda"
    atol = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}[dtype]
    np.testing.assert_allclose(engine.score(SEQUENCES)[:, 0], REWARDS, atol=atol, rtol=0)
