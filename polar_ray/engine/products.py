"""Matrix products in bfloat16 whose sums are not rounded before what follows them.

torch's own products round each sum to bfloat16, and what is added to it, rotated by it or multiplied with it then
rounds again. These are made of the kernel that torch's compiler builds on (``at::native::cpublas::brgemm``, in
``ATen/native/CPUBlas.h``), which gives float32.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

import torch

PANEL = 64
"""Columns of a weight that lie together; as in ``kernels.c``."""
_STEP = 16
_COLUMNS = 16
_BRGEMM = "_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb"
_RELEASE = "_ZN2at6native7cpublas14brgemm_releaseEb"

Activation = str
ACTIVATIONS: dict[Activation, int] = {"silu": 0, "gelu_pytorch_tanh": 1}
"""The activations that the kernels know, by their names in transformers' configs."""


@dataclass(frozen=True)
class Panels:
    """A linear layer's weight and bias, laid out for ``Products``.

    Attributes:
        weight: bfloat16 ``[in_features * out_features]``: panels of up to ``PANEL`` columns, in each of which the
            numbers of an even and an odd input stand next to each other.
        bias: bfloat16 ``[out_features]`` or None.
        in_features: Numbers of a row that goes in.
        out_features: Numbers of a row that comes out.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    in_features: int
    out_features: int

    @staticmethod
    def fit(linear: torch.nn.Linear) -> bool:
        """Whether a layer's shape is one that the kernel takes as it is."""
        return (
            linear.weight.dtype == torch.bfloat16
            and linear.in_features % _STEP == 0
            and linear.out_features % _COLUMNS == 0
        )

    @staticmethod
    def of(linear: torch.nn.Linear) -> "Panels":
        """Lays out a layer that fits."""
        weight = linear.weight.detach()
        panels = [
            panel.view(len(panel), -1, 2).transpose(0, 1).reshape(-1)
            for panel in torch.split(weight.contiguous(), PANEL)
        ]
        bias = None if linear.bias is None else linear.bias.detach().contiguous()
        return Panels(torch.cat(panels), bias, linear.in_features, linear.out_features)


class Products:
    """The products. Tensors are bfloat16 unless said otherwise, contiguous, on the CPU; calls must not overlap."""

    def __init__(self, library: ctypes.CDLL, brgemm: ctypes.c_void_p, release: ctypes.c_void_p) -> None:
        """Takes the library that was made of ``kernels.c``, and torch's kernel."""
        self._library = library
        self._library.polar_products_workspace.restype = ctypes.c_long
        self._kernel = (brgemm, release)
        # The C code writes float32 into memory of the CPU, whatever a process has made torch's defaults.
        self._workspace = torch.empty(0, dtype=torch.float32, device="cpu")

    def rounded(self, x: torch.Tensor, panels: Panels) -> torch.Tensor:
        """Returns ``[rows, out_features]`` for ``[rows, in_features]``, rounded once."""
        out = torch.empty(len(x), panels.out_features, dtype=torch.bfloat16, device="cpu")
        self._product(x, panels, out, add=False)
        return out

    def exact(self, x: torch.Tensor, panels: Panels) -> torch.Tensor:
        """Returns float32 ``[rows, out_features]`` for ``[rows, in_features]``."""
        out = torch.empty(len(x), panels.out_features, dtype=torch.float32, device="cpu")
        self._product(x, panels, out, add=False)
        return out

    def add_to(self, out: torch.Tensor, x: torch.Tensor, panels: Panels) -> None:
        """Adds the product to a float32 ``out`` in place."""
        assert out.dtype == torch.float32, "sums are float32"
        self._product(x, panels, out, add=True)

    def gated(self, x: torch.Tensor, gate: Panels, up: Panels, activation: Activation) -> torch.Tensor:
        """Returns ``activation(gate(x)) * up(x)`` for ``[rows, in_features]``, rounded once."""
        out = torch.empty(len(x), gate.out_features, dtype=torch.bfloat16, device="cpu")
        self._library.polar_gated(
            *self._ready(),
            *(_pointer(tensor) for tensor in (x, gate.weight, gate.bias, up.weight, up.bias, out)),
            *(ctypes.c_long(size) for size in (len(x), gate.in_features, gate.out_features)),
            ACTIVATIONS[activation],
            _pointer(self._workspace),
            torch.get_num_threads(),
        )
        return out

    def _product(self, x: torch.Tensor, panels: Panels, out: torch.Tensor, *, add: bool) -> None:
        self._library.polar_product(
            *self._ready(),
            int(out.dtype == torch.bfloat16),
            int(add),
            *(_pointer(tensor) for tensor in (x, panels.weight, panels.bias, out)),
            *(ctypes.c_long(size) for size in (len(x), panels.in_features, panels.out_features)),
            _pointer(self._workspace),
            torch.get_num_threads(),
        )

    def _ready(self) -> tuple[ctypes.c_void_p, ctypes.c_void_p]:
        if not torch.backends.mkldnn.enabled:
            # The kernel would end the process.
            raise RuntimeError("The weights are laid out for oneDNN, and torch.backends.mkldnn was disabled since.")
        needed = self._library.polar_products_workspace(torch.get_num_threads())
        if self._workspace.numel() < needed:
            self._workspace = torch.empty(needed, dtype=torch.float32, device="cpu")
        return self._kernel


def find_products(library: ctypes.CDLL) -> Products | None:
    """Returns the products, or None where this torch has no such kernel or oneDNN is not to use what it needs.

    Args:
        library: Made of ``kernels.c``, on a processor with instructions for bfloat16.
    """
    limited = "ONEDNN_MAX_CPU_ISA" in os.environ or "DNNL_MAX_CPU_ISA" in os.environ
    if limited or not torch.backends.mkldnn.enabled:
        return None
    try:
        torch_library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        brgemm, release = (ctypes.cast(torch_library[name], ctypes.c_void_p) for name in (_BRGEMM, _RELEASE))
    except (OSError, AttributeError):
        return None
    return Products(library, brgemm, release)


def _pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p | None:
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())
