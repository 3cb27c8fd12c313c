"""Linear layers through the faster of the two matrix libraries that torch has on a CPU.

torch sends float32 products to MKL, which takes a slow path on processors that are not Intel's, and lays out a weight
anew on every call of oneDNN. Here a weight is laid out once and goes through oneDNN, where a measurement at start says
that this is no slower and just as exact.
"""

import logging
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from polar_ray.engine.products import Panels, Products

logger = logging.getLogger(__name__)

BLOCK = 512
_STEP = 32
_SLOWER = 1.25
"""How much slower oneDNN may measure. It is rarely slower and often twice as fast, and actors must choose alike."""
_TIMED = 512
"""Width of the layer that is timed."""
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest error relative to the largest output; more means that float32 was computed in a smaller dtype."""


def row_blocks(rows: int) -> list[int]:
    """Returns the sizes of the blocks in which rows go through matrix products.

    What is between two products of one block stays in cache. There are few different sizes, because oneDNN makes and
    keeps a program for each: with a new size in every forward that takes longer than the product, and memory grows.
    """
    rest = rows % BLOCK
    sizes = [*[BLOCK] * (rows // BLOCK), rest - rest % _STEP, rest % _STEP]
    return [size for size in sizes if size] or [0]


class PackedLinear(torch.nn.Module):
    """A linear layer whose weight is laid out for oneDNN.

    Attributes:
        weight: ``[out_features, in_features]``, opaque.
        bias: ``[out_features]`` or None.
    """

    def __init__(self, linear: torch.nn.Linear) -> None:
        """Takes over the weight of a linear layer on the CPU."""
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), BLOCK)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ``x @ weight.T + bias``, for any number of dimensions."""
        rows = x.reshape(-1, self.in_features)
        blocks = [self._block(block) for block in torch.split(rows, row_blocks(len(rows)))]
        product = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        return product.view(*x.shape[:-1], self.out_features)

    def _block(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return product

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class WideLinear(torch.nn.Module):
    """A linear layer in bfloat16 that can give what it sums up in float32."""

    def __init__(self, linear: torch.nn.Linear, products: Products) -> None:
        """Takes over the weight of a linear layer on the CPU, which fits ``Panels``."""
        super().__init__()
        self.panels = Panels.of(linear)
        self.products = products

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ``x @ weight.T + bias`` in bfloat16, for any number of dimensions."""
        return self.products.rounded(self._rows(x), self.panels).view(*x.shape[:-1], self.panels.out_features)

    def exact(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the same in float32."""
        return self.products.exact(self._rows(x), self.panels).view(*x.shape[:-1], self.panels.out_features)

    def add_to(self, out: torch.Tensor, x: torch.Tensor) -> None:
        """Adds it to a contiguous float32 ``[rows, out_features]`` in place, for ``[rows, in_features]``."""
        self.products.add_to(out, self._rows(x), self.panels)

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, self.panels.in_features).contiguous()

    def extra_repr(self) -> str:
        panels = self.panels
        return f"in_features={panels.in_features}, out_features={panels.out_features}, bias={panels.bias is not None}"


@torch.inference_mode()
def widening_pays(products: Products) -> bool:
    """Measures whether wide layers are exact in float32 and as fast as torch's own.

    On a layer of one size for all models: what is asked is what the processor and torch can do, and in small layers
    chance would choose.

    Args:
        products: What computes them.
    """
    width = 512
    linear = torch.nn.Linear(width, width, bias=False, device="meta")
    random = torch.Generator().manual_seed(0)
    linear.weight = torch.nn.Parameter(torch.randn(width, width, generator=random).bfloat16(), requires_grad=False)
    x = torch.randn(BLOCK, width, generator=random).bfloat16()
    wide = WideLinear(linear, products)
    if _off(wide.exact(x), x, linear) > _TOLERANCE[torch.float32]:
        return False
    other = PackedLinear(linear) if packing_pays(linear) else linear
    seconds = _alternate(lambda: other(x), lambda: wide(x))
    logger.debug("torch takes %.6f s where the wide product takes %.6f s", *seconds)
    return seconds[1] <= _SLOWER * seconds[0]


def _off(found: torch.Tensor, x: torch.Tensor, linear: torch.nn.Linear) -> float:
    """Returns the largest error relative to the largest output."""
    plain = F.linear(x.double(), linear.weight.double(), None if linear.bias is None else linear.bias.double())
    return float((found.double() - plain).abs().max() / plain.abs().max())


@torch.inference_mode()
def packing_pays(linear: torch.nn.Linear) -> bool:
    """Measures whether a layer is as exact when packed, and one of a middling size as fast.

    The time of a small model's layer is mostly that of the call: chance would choose, and two processes unlike, which
    shows in the last bits of a reward.

    Args:
        linear: A large layer of the model, on the CPU.
    """
    tolerance = _TOLERANCE.get(linear.weight.dtype)
    if tolerance is None or not torch.backends.mkldnn.enabled:
        return False
    x = torch.randn(BLOCK, linear.in_features, generator=torch.Generator().manual_seed(0)).to(linear.weight.dtype)
    try:
        packed = PackedLinear(linear)
        found = packed(x)
    except (AttributeError, RuntimeError) as error:
        # The operations are torch's own but not of its public interface.
        logger.info("Weights are not laid out for oneDNN: %s", error)
        return False
    if _off(found, x, linear) > tolerance:
        return False
    plain = _timed(linear.weight.dtype)
    ones = torch.ones(BLOCK, _TIMED, dtype=linear.weight.dtype)
    seconds = _alternate(partial(plain, ones), partial(PackedLinear(plain), ones))
    logger.debug("torch takes %.6f s where oneDNN takes %.6f s", *seconds)
    return seconds[1] <= _SLOWER * seconds[0]


def pack_linears(module: torch.nn.Module, products: Products | None = None) -> int:
    """Replaces the linear layers inside a module by wide or packed ones, if that pays. Returns how many it replaced.

    A weight is freed as soon as it is packed, so that there are never two of more than one layer.

    Args:
        module: Its layers are on the CPU.
        products: What wide layers are computed by, or None for none.
    """
    found = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) is torch.nn.Linear
    ]
    if not found:
        return 0
    packed = packing_pays(max((child for _, _, child in found), key=lambda child: child.weight.numel()))
    half = any(child.weight.dtype == torch.bfloat16 for _, _, child in found)
    wide = products if half and products is not None and widening_pays(products) else None
    replaced = 0
    for place, (parent, name, child) in enumerate(found):
        # Nothing else may hold the old weight.
        found[place] = (parent, name, torch.nn.Linear(1, 1, device="meta"))
        if wide is not None and Panels.fit(child):
            setattr(parent, name, WideLinear(child, wide))
        elif packed:
            setattr(parent, name, PackedLinear(child))
        else:
            continue
        replaced += 1
        del child
    return replaced


@torch.inference_mode()
def times_float32(dtype: torch.dtype) -> float:
    """Measures how much longer a matrix product in half precision takes on this processor than one in float32.

    Where the processor has instructions for it, it takes half as long; where it has none, many times as long.
    """
    calls: list[Callable[[], object]] = []
    for linear in (_timed(dtype), _timed(torch.float32)):
        x = torch.ones(BLOCK, _TIMED, dtype=linear.weight.dtype)
        layer = PackedLinear(linear) if packing_pays(linear) else linear
        calls.append(partial(layer, x))
    half, single = _alternate(*calls)
    return half / max(single, 1e-9)


def _timed(dtype: torch.dtype) -> torch.nn.Linear:
    """Returns a layer to time; it takes no random numbers, which are the caller's."""
    linear = torch.nn.Linear(_TIMED, _TIMED, bias=False, dtype=dtype, device="meta").to_empty(device="cpu")
    torch.nn.init.ones_(linear.weight)
    return linear.requires_grad_(False)


def _alternate(*calls: Callable[[], object]) -> list[float]:
    """Returns the shortest processor time of each call, in turns: what else the machine does must not count."""
    best = [float("inf")] * len(calls)
    for _ in range(8):
        for number, call in enumerate(calls):
            start = time.process_time()
            call()
            best[number] = min(best[number], time.process_time() - start)
    return best
