"""The compiled element-wise kernels, against the same written in torch in float64, and what happens without them."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from polar_ray.engine.kernels import Kernels, _library, load_kernels
from polar_ray.engine.linear import BLOCK, PackedLinear, pack_linears, row_blocks

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
DTYPES = [torch.float32, torch.bfloat16]
# Rounding to the dtype once or twice.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1.2e-2}


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    loaded = load_kernels()
    if loaded is None:
        pytest.skip("needs a C compiler")
    return loaded


def some(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale).to(dtype)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    tolerance = TOLERANCE[found.dtype]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [64, 768, 50])
@pytest.mark.parametrize("plus_one", [False, True])
def test_rms_norm(kernels: Kernels, dtype: torch.dtype, dim: int, plus_one: bool) -> None:
    x, weight = some(9, 4, dim, dtype=dtype, scale=3), some(dim, dtype=dtype)
    normed = x.double() / (x.double().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    assert_close(kernels.rms_norm(x, weight, 1e-5, plus_one=plus_one), normed * (weight.double() + plus_one))


@pytest.mark.parametrize("dim", [64, 768, 50])
@pytest.mark.parametrize("plus_one", [False, True])
def test_a_branch_is_added_and_normed_with_one_rounding(kernels: Kernels, dim: int, plus_one: bool) -> None:
    x, weight = some(9, dim, dtype=torch.float32, scale=3), some(dim, dtype=torch.bfloat16)
    branch = some(9, dim, dtype=torch.bfloat16, scale=0.1)
    total = x.clone()
    found = kernels.add_and_norm(total, branch, weight, 1e-5, plus_one=plus_one)
    assert torch.equal(total, x + branch.float())
    exact = total.double() / (total.double().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * (weight.double() + plus_one)
    # Half of the last of bfloat16's eight bits (twice that if it were rounded twice), and float32's own rounding.
    torch.testing.assert_close(found.double(), exact, rtol=2**-8 + 1e-6, atol=1e-6)
    assert torch.equal(found, kernels.rms_norm(total, weight, 1e-5, plus_one=plus_one))
    again = x.clone()
    kernels.add(again, branch)
    assert torch.equal(again, total)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [64, 24])
def test_rotate_turns_halves_and_may_write_in_place(kernels: Kernels, dtype: torch.dtype, dim: int) -> None:
    x, angles = some(11, 3, dim, dtype=dtype), torch.arange(11.0)[:, None] * torch.rand(dim // 2)
    angles = torch.cat([angles, angles], -1)
    cos, sin = angles.cos(), angles.sin()
    first, second = x.double()[..., : dim // 2], x.double()[..., dim // 2 :]
    expected = x.double() * cos.double()[:, None] + torch.cat([-second, first], -1) * sin.double()[:, None]
    apart = torch.empty_like(x)
    kernels.rotate(x, cos, sin, apart)
    kernels.rotate(x, cos, sin, x)
    assert_close(apart, expected)
    assert torch.equal(x, apart)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [160, 13])
def test_gates(kernels: Kernels, dtype: torch.dtype, size: int) -> None:
    gate, up = some(5, size, dtype=dtype, scale=4), some(5, size, dtype=dtype)
    exact = gate.double(), up.double()
    assert_close(kernels.gate(gate.clone(), up, "silu"), F.silu(exact[0]) * exact[1])
    assert_close(kernels.gate(gate.clone(), up, "gelu_pytorch_tanh"), F.gelu(exact[0], approximate="tanh") * exact[1])


def test_gates_of_extreme_numbers(kernels: Kernels) -> None:
    gate = torch.tensor([-1e30, -200.0, -90.0, 0.0, 90.0, 1e30, float("nan")])
    for activation in ("silu", "gelu_pytorch_tanh"):
        found = kernels.gate(gate.clone(), torch.ones(7), activation)
        torch.testing.assert_close(found[:6], torch.tensor([0.0, 0.0, 0.0, 0.0, 90.0, 1e30]), atol=1e-30, rtol=1e-6)
        assert found[6].isnan()


def run_python(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return result.stdout + result.stderr


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("[ $1 = --version ] && exit 0\necho no such flag >&2; exit 1\n", "no such flag"),
        ("exit 0\n", "No such file"),
        (None, "quotation"),
    ],
)
def test_a_compiler_that_fails_is_said_once_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, script: str | None, said: str
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\n{script}")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler) if script else "'cc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("polar_ray.engine.kernels._library", cache(_library.__wrapped__))
    assert [load_kernels(), load_kernels()] == [None, None]
    (record,) = caplog.records
    assert said in record.getMessage()
    assert "torch's own operations" in record.getMessage()


def test_kernels_can_be_switched_off() -> None:
    assert run_python(
        "from polar_ray.engine.kernels import load_kernels; print(load_kernels())", POLAR_RAY_KERNELS="off"
    ).startswith("None\n")


def test_kernels_are_compiled_once(kernels: Kernels, tmp_path: Path) -> None:
    code = "from polar_ray.engine.kernels import load_kernels; print(load_kernels() is not None)"
    for _ in range(2):
        assert run_python(code, XDG_CACHE_HOME=str(tmp_path)) == "True\n"
    (library,) = (tmp_path / "polar_ray").iterdir()
    assert library.suffix == ".so"


def test_row_blocks_have_few_sizes() -> None:
    assert row_blocks(2 * BLOCK + 75) == [BLOCK, BLOCK, 64, 11]
    assert row_blocks(64) == [64]
    assert all(sum(row_blocks(rows)) == rows for rows in range(2000))
    assert len({size for rows in range(5000) for size in row_blocks(rows)}) < 60


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_linear_layer_computes_what_it_was_made_from(dtype: torch.dtype, bias: bool) -> None:
    linear = torch.nn.Linear(96, 40, bias=bias, dtype=dtype).requires_grad_(False)
    packed = PackedLinear(linear)
    for shape in ((1,), (7,), (3, 250), (0,)):
        x = some(*shape, 96, dtype=dtype)
        exact = F.linear(x.double(), linear.weight.double(), linear.bias.double() if bias else None)
        assert_close(packed(x), exact)


def test_packing_replaces_linear_layers_and_frees_their_weights() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.Sequential(torch.nn.Linear(512, 256)))
    model.requires_grad_(False)
    x = some(5, 256, dtype=torch.float32)
    expected = model(x)
    replaced = pack_linears(model)
    assert replaced in (0, 2)
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    assert len(list(model.parameters())) == (4 if replaced == 0 else 2)
