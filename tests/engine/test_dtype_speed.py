"""A dtype that this processor is slow in is said at start."""

import logging
import time
from pathlib import Path

import pytest
import torch

from polar_ray.engine.engine import Engine
from polar_ray.engine.linear import times_float32
from polar_ray.models.dtype import TORCH_DTYPES, DType
from polar_ray.models.internlm2 import load_internlm2_reward

torch.set_num_threads(1)
FOLDER = Path(__file__).parents[1] / "golden" / "polar" / "polar_tiny_a"


def seconds(dtype: torch.dtype) -> float:
    """The shortest time of a plain product."""
    x, weight = torch.ones(512, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    best = float("inf")
    for _ in range(20):
        start = time.process_time()
        torch.nn.functional.linear(x, weight)
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_dtype_that_is_far_slower_than_float32_is_said(dtype: DType, caplog: pytest.LogCaptureFixture) -> None:
    # float32 may be up to three times as fast through the other of torch's libraries.
    times = seconds(TORCH_DTYPES[dtype]) / seconds(torch.float32)
    if 0.4 < times < 1.5 and dtype != "float32":
        pytest.skip("neither fast nor slow on this processor")
    with caplog.at_level(logging.WARNING, "polar_ray.engine.engine"):
        Engine(load_internlm2_reward(FOLDER, dtype), device="cpu", dtype=dtype)
    assert ("as long as in float32" in caplog.text) == (times >= 1.5)


def test_float32_is_as_fast_as_itself() -> None:
    assert times_float32(torch.float32) == pytest.approx(1, abs=0.25)
