"""What can be shown on a CUDA device only: each attention path, no waiting between forwards, running out of memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from tiny_models import FUSED, NATIVE, make_model, make_sequences

from polar_ray.engine import row, varlen
from polar_ray.engine.attention import attend
from polar_ray.engine.engine import Engine
from polar_ray.engine.flex import FlexTables, attend_flex, flex_serves
from polar_ray.engine.layout import lay_out
from polar_ray.engine.plan import Budget, plan_forwards
from polar_ray.engine.row import KeptKeys
from polar_ray.engine.varlen import attend_varlen, varlen_calls, varlen_serves
from polar_ray.errors import DeviceLost, ScoringError
from polar_ray.models.dtype import DType

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")
SEQUENCES = make_sequences()
PLAN = plan_forwards(make_sequences(4, 5), Budget(10**6, 10**12))
LAYOUT = lay_out(PLAN, PLAN.forwards[0], make_sequences(4, 5))


def make_engine(family: str = "Llama", dtype: DType = "float32", **settings: Any) -> Engine:
    return Engine(make_model(family, dtype), device="cuda", dtype=dtype, **settings)


@pytest.mark.parametrize("family", [*FUSED, *NATIVE])
def test_float32_scores_as_plainly_on_the_cpu(family: str) -> None:
    exact = Engine(make_model(family), device="cpu", dtype="float32", path="plain").score(SEQUENCES)
    engine = make_engine(family, token_budget=150)
    assert engine.plain_because is None
    np.testing.assert_allclose(engine.score(SEQUENCES), exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", FUSED)
def test_half_precision_is_no_further_from_float32_than_plain_half_precision(family: str, dtype: DType) -> None:
    sequences = make_sequences(40, 3)
    exact = Engine(make_model(family), device="cpu", dtype="float32").score(sequences)
    engine = make_engine(family, dtype, token_budget=500)
    assert engine.plain_because is None
    packed, plain = (
        float(np.sqrt(((scores - exact) ** 2).mean()))
        for scores in (engine.score(sequences), engine.score_alone(sequences))
    )
    assert packed <= 1.25 * plain


@pytest.mark.parametrize("window", [None, 9, 60])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(8, 2, 64), (4, 4, 128), (6, 3, 24)])
@pytest.mark.parametrize("most_keys", [300, 10**6])
def test_flash_attention_reads_chains_causally_from_their_ends(
    heads: int, kv_heads: int, dim: int, window: int | None, most_keys: int
) -> None:
    query, key, value = tensors(heads, kv_heads, dim, torch.bfloat16)
    assert varlen_serves(query, None)
    expected = attend(
        *(t.double().cpu() for t in (query, key, value)), LAYOUT.pieces, LAYOUT.tokens, scale=0.2, window=window
    )
    for spans, rows in ((LAYOUT.tokens, np.arange(len(LAYOUT.ids))), (LAYOUT.reads, LAYOUT.read_rows)):
        calls = varlen_calls(LAYOUT.pieces, spans, CUDA, most_keys)
        found = attend_varlen(query[rows], key, value, calls, scale=0.2, window=window)
        torch.testing.assert_close(found.double().cpu(), expected[rows], atol=0.03, rtol=0)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 9, 60])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_flex_attention_hides_what_the_layout_hides(
    dtype: torch.dtype, window: int | None, softcap: float | None
) -> None:
    query, key, value = tensors(4, 2, 64, dtype)
    assert flex_serves(query)
    expected = attend(
        *(t.double().cpu() for t in (query, key, value)),
        LAYOUT.pieces,
        LAYOUT.tokens,
        scale=0.2,
        window=window,
        softcap=softcap,
    )
    for spans, rows in ((LAYOUT.tokens, np.arange(len(LAYOUT.ids))), (LAYOUT.reads, LAYOUT.read_rows)):
        tables = FlexTables.of(LAYOUT.pieces, spans, CUDA, window)
        found = attend_flex(query[rows], key, value, tables, scale=0.2, softcap=softcap)
        atol = 1e-5 if dtype == torch.float32 else 0.03
        torch.testing.assert_close(found.double().cpu(), expected[rows], atol=atol, rtol=0)


def tensors(heads: int, kv_heads: int, dim: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = ((len(LAYOUT.ids), count, dim) for count in (heads, kv_heads, kv_heads))
    return [torch.randn(shape, generator=generator).to(CUDA, dtype) for shape in shapes]


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Makes torch raise where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("family", "dtype"), [("Llama", "bfloat16"), ("Llama", "float32"), ("Gemma2", "bfloat16")])
def test_the_host_does_not_wait_for_the_device_inside_a_forward(
    family: str, dtype: DType, request: pytest.FixtureRequest
) -> None:
    engine = make_engine(family, dtype)
    plan = engine.plan(SEQUENCES)
    engine.score(SEQUENCES)
    request.getfixturevalue("no_waiting")
    with torch.inference_mode():
        fetched = engine._read_row(engine._row(plan, 0, SEQUENCES, KeptKeys()))
    assert len(fetched.array()) == len(set(plan.last))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_same_list_gives_the_same_bits_in_any_order(dtype: DType) -> None:
    engine = make_engine("Qwen2", dtype, token_budget=150)
    scores = engine.score(SEQUENCES)
    order = np.random.default_rng(1).permutation(len(SEQUENCES))
    assert engine.score([SEQUENCES[place] for place in order]).tobytes() == scores[order].tobytes()


def test_few_keys_at_a_time_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(dtype="bfloat16")
    expected = engine.score(SEQUENCES)
    monkeypatch.setattr(row, "KEYS_PER_TOKEN", 1)
    assert varlen.KEYS_PER_TOKEN > 1
    assert len(engine._row(engine.plan(SEQUENCES), 0, SEQUENCES, KeptKeys())._token_calls) > 1
    np.testing.assert_allclose(engine.score(SEQUENCES), expected, atol=1e-2, rtol=0)


def test_out_of_memory_halves_the_budget_and_scores_the_same() -> None:
    random = np.random.default_rng(0)
    sequences = [random.integers(0, 500, 600).astype(np.int32) for _ in range(400)]
    expected = make_engine(token_budget=2000).score(sequences)
    engine = make_engine(token_budget=200_000)
    torch.cuda.empty_cache()
    used = torch.cuda.memory_reserved() + 256 * 2**20
    torch.cuda.set_per_process_memory_fraction(used / torch.cuda.get_device_properties(CUDA).total_memory)
    try:
        scores = engine.score(sequences)
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1e-9)
        with pytest.raises(ScoringError, match="does not fit in the memory of cuda"):
            engine.score(sequences)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 600 < engine.token_budget < 200_000
    np.testing.assert_allclose(scores, expected, atol=1e-4, rtol=0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_devices_give_the_rewards_of_one_until_one_is_lost(dtype: DType) -> None:
    expected = make_engine(dtype=dtype).score(SEQUENCES)
    engine = make_engine(dtype=dtype, ranks=2, token_budget=150, rank_timeout_s=60)
    atol = 1e-5 if dtype == "float32" else 0.05
    np.testing.assert_allclose(engine.score(SEQUENCES), expected, atol=atol, rtol=0)
    (child,) = (c for c in psutil.Process().children() if "polar_ray.engine.rank" in " ".join(c.cmdline()))
    child.kill()
    with pytest.raises(DeviceLost, match="Rank 1 of 2"):
        engine.score(SEQUENCES)
    engine.close()
