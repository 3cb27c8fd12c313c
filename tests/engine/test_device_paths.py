"""The paths that are made for CUDA, as far as the CPU can run them."""

import numpy as np
import pytest
import torch
import transformers
from tiny_models import make_model, make_sequences

from polar_ray.engine import row
from polar_ray.engine.engine import Engine
from polar_ray.engine.norm import OnePassNorm

torch.set_num_threads(1)
SEQUENCES = make_sequences(6, 4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "Olmo2"])
def test_a_model_over_flex_attention_scores_as_plainly(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row, "flex_serves", lambda query: len(query) > 0)
    engine = Engine(make_model(family), device="cpu", dtype="float32", token_budget=150)
    assert engine.plain_because is None
    np.testing.assert_allclose(engine.score(SEQUENCES), engine.score_alone(SEQUENCES), atol=1e-4, rtol=0)


@pytest.mark.parametrize("norm", ["Llama", "Qwen3"])
def test_the_norm_of_one_pass_is_the_native_one(norm: str) -> None:
    module = {
        "Llama": transformers.models.llama.modeling_llama.LlamaRMSNorm,
        "Qwen3": transformers.models.qwen3.modeling_qwen3.Qwen3RMSNorm,
    }[norm](64, eps=1e-5)
    torch.nn.init.normal_(module.weight, 1.0, 0.3)
    x = torch.randn(7, 64) * 3
    with torch.inference_mode():
        torch.testing.assert_close(OnePassNorm(module, 1e-5)(x), module(x), atol=1e-5, rtol=1e-5)
        # Half precision: no further from float32 than the native one.
        exact, half = module(x), module.bfloat16()
        native, fused = half(x.bfloat16()).float(), OnePassNorm(half, 1e-5)(x.bfloat16()).float()
    assert (fused - exact).pow(2).mean() <= (native - exact).pow(2).mean()


@pytest.mark.parametrize(
    "fails",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
)
def test_out_of_memory_halves_the_budget_keeps_what_is_done_and_scores_the_same(
    fails: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model("Llama")
    expected = Engine(make_model("Llama"), device="cpu", dtype="float32", token_budget=400).score(SEQUENCES)
    engine = Engine(model, device="cpu", dtype="float32", token_budget=400)
    sizes: list[int] = []

    def allocate(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        sizes.append(inputs[0].numel())
        # Not the first time: what the first forwards gave must not be lost.
        if len(sizes) > 2 and sizes[-1] > 200:
            raise fails

    model.backbone.embed_tokens.register_forward_pre_hook(allocate)
    assert len(engine.plan(SEQUENCES).forwards) > 2
    np.testing.assert_allclose(engine.score(SEQUENCES), expected, atol=1e-4, rtol=0)
    assert engine.token_budget <= 200
    assert "Out of memory on cpu" in caplog.text
    # What came before is not computed again.
    failed = next(place for place, size in enumerate(sizes) if place > 1 and size > 200)
    assert sum(sizes[failed + 1 :]) < engine.plan(SEQUENCES).tokens
