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
from polar_ray.engine.linear import BLOCK, PackedLinear, WideLinear, pack_linears, row_blocks
from polar_ray.engine.products import Panels, Products

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
def test_a_float32_stream_is_normed_with_one_rounding_or_with_none(kernels: Kernels, dim: int, plus_one: bool) -> None:
    x, weight = some(9, dim, dtype=torch.float32, scale=3), some(dim, dtype=torch.bfloat16)
    expected = x.double() / (x.double().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * (weight.double() + plus_one)
    exact = kernels.rms_norm(x, weight, 1e-5, plus_one=plus_one, exact=True)
    assert exact.dtype == torch.float32
    torch.testing.assert_close(exact.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(kernels.rms_norm(x, weight, 1e-5, plus_one=plus_one), exact.bfloat16())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [64, 50])
def test_a_branch_is_added_in_float32(kernels: Kernels, dtype: torch.dtype, dim: int) -> None:
    x, branch = some(9, dim, dtype=torch.float32, scale=3), some(9, dim, dtype=dtype, scale=0.1)
    total = x.clone()
    kernels.add(total, branch)
    assert torch.equal(total, x + branch.float())


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


@pytest.mark.parametrize("dim", [64, 24])
def test_rotated_float32_is_rounded_once(kernels: Kernels, dim: int) -> None:
    x, angles = some(11, 3, dim, dtype=torch.float32), torch.arange(11.0)[:, None] * torch.rand(dim)
    exact = torch.empty_like(x)
    kernels.rotate(x, angles.cos(), angles.sin(), exact)
    rounded = torch.empty_like(x, dtype=torch.bfloat16)
    kernels.rotate(x, angles.cos(), angles.sin(), rounded)
    assert torch.equal(rounded, exact.bfloat16())


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


@pytest.fixture(scope="module")
def products(kernels: Kernels) -> Products:
    if kernels.products is None:
        pytest.skip("needs a processor with instructions for bfloat16")
    return kernels.products


def wide_linear(inputs: int, outputs: int, *, bias: bool = False) -> torch.nn.Linear:
    return torch.nn.Linear(inputs, outputs, bias=bias, dtype=torch.bfloat16).requires_grad_(False)


def exact_output(linear: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x.double(), linear.weight.double(), None if linear.bias is None else linear.bias.double())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(96, 64), (32, 16), (64, 208)])
def test_a_wide_linear_layer_rounds_nothing_or_what_it_gives_once(
    products: Products, inputs: int, outputs: int, bias: bool
) -> None:
    linear = wide_linear(inputs, outputs, bias=bias)
    wide = WideLinear(linear, products)
    for shape in ((1,), (7,), (3, 250), (0,)):
        x = some(*shape, inputs, dtype=torch.bfloat16)
        exact = wide.exact(x)
        assert exact.dtype == torch.float32
        torch.testing.assert_close(exact.double(), exact_output(linear, x), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(wide(x).float(), exact, rtol=2**-8, atol=1e-6)
        stream = some(*shape, outputs, dtype=torch.float32, scale=3).view(-1, outputs)
        total = stream.clone()
        wide.add_to(total, x)
        torch.testing.assert_close(total, stream + exact.view(-1, outputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
def test_gated_products_are_rounded_once(products: Products, activation: str, bias: bool) -> None:
    gate, up = wide_linear(96, 208, bias=bias), wide_linear(96, 208, bias=bias)
    x = some(579, 96, dtype=torch.bfloat16, scale=4)
    one = exact_output(gate, x)
    one = F.silu(one) if activation == "silu" else F.gelu(one, approximate="tanh")
    found = products.gated(x, Panels.of(gate), Panels.of(up), activation)
    # Half of the last of bfloat16's eight bits, and what the exponential is off by.
    torch.testing.assert_close(found.double(), one * exact_output(up, x), rtol=2**-8 + 1e-4, atol=1e-4)


def test_wide_products_are_the_same_on_any_number_of_threads(products: Products) -> None:
    linear, other = wide_linear(64, 208, bias=True), wide_linear(64, 208)
    wide, x = WideLinear(linear, products), some(579, 64, dtype=torch.bfloat16)

    def results() -> list[torch.Tensor]:
        gated = products.gated(x, wide.panels, Panels.of(other), "silu")
        return [wide(x), wide.exact(x), gated]

    alone = results()
    torch.set_num_threads(3)
    try:
        assert all(map(torch.equal, alone, results()))
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64])
def test_wide_products_do_not_ask_for_torchs_default_dtype(kernels: Kernels, default: torch.dtype) -> None:
    if kernels.products is None:
        pytest.skip("needs a processor with instructions for bfloat16")
    linear, x = wide_linear(96, 208), some(7, 96, dtype=torch.bfloat16)
    expected = exact_output(linear, x)
    torch.set_default_dtype(default)
    try:
        # Whose workspace is made under that default.
        found = WideLinear(linear, Products(kernels.products._library, *kernels.products._kernel)).exact(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_layers_of_odd_shapes_are_not_wide(products: Products) -> None:
    model = torch.nn.Sequential(wide_linear(256, 512), wide_linear(512, 40), wide_linear(40, 64))
    x = some(5, 256, dtype=torch.bfloat16)
    expected = model(x)
    pack_linears(model, products)
    assert [isinstance(layer, WideLinear) for layer in model] in ([True, False, False], [False] * 3)
    torch.testing.assert_close(model(x), expected, atol=2e-2, rtol=2e-2)


def test_wide_products_say_that_onednn_was_switched_off(products: Products, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = WideLinear(wide_linear(64, 64), products)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with pytest.raises(RuntimeError, match="was disabled since"):
        wide(some(3, 64, dtype=torch.bfloat16))
