"""The kernels of ``kernels.c``: compiled for this machine when it first needs them, and called on tensors.

Nothing depends on them but speed: without a C compiler the engine does the same work with torch's own operations.
"""

import ctypes
import logging
import os
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch

from polar_ray.engine.compiled import load_compiled
from polar_ray.engine.layout import Pieces, Spans
from polar_ray.engine.products import ACTIVATIONS, Activation, find_products

logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("kernels.c")
_FUNCTIONS = (
    *("polar_level", "polar_norm", "polar_add", "polar_rotate", "polar_gate", "polar_product", "polar_gated"),
    *("polar_products_workspace", "polar_attention", "polar_attention_workspace"),
)
_MOST_DIMENSIONS = 256
_MOST_SHARING = 48


class Kernels:
    """The compiled kernels. Tensors are float32 or bfloat16, on the CPU; strides as said are the caller's duty.

    Calls of ``attention`` share a workspace, so they must not overlap.

    Attributes:
        products: Matrix products in bfloat16 with float32 sums, or None where this processor or this torch has none.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        """Takes the library that ``load_compiled`` made of ``kernels.c``."""
        self._library = library
        self._library.polar_attention_workspace.restype = ctypes.c_long
        self._workspace = torch.empty(0, dtype=torch.uint8, device="cpu")
        self._level = int(self._library.polar_level())
        self.products = find_products(library) if self._level >= 2 else None

    def attends(self, dtype: torch.dtype, head_dim: int, shared_by: int) -> bool:
        """Whether ``attention`` is made for heads of this kind on this processor.

        Args:
            dtype: Of queries, keys and values.
            head_dim: Dimensions of a head.
            shared_by: Heads that share a key.
        """
        needed = {torch.float32: 1, torch.bfloat16: 2}.get(dtype)
        return (
            needed is not None and self._level >= needed and head_dim <= _MOST_DIMENSIONS and shared_by <= _MOST_SHARING
        )

    def free_workspace(self) -> None:
        """Frees what ``attention`` keeps between calls."""
        self._workspace = torch.empty(0, dtype=torch.uint8, device="cpu")

    def rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, eps: float, *, plus_one: bool = False, exact: bool = False
    ) -> torch.Tensor:
        """Returns the root mean square norm over the last dimension of a contiguous tensor, rounded once.

        Args:
            x: ``[..., dim]``, of the weight's dtype or float32.
            weight: ``[dim]``.
            eps: Added to the mean square.
            plus_one: Multiply by ``1 + weight``, as Gemma does.
            exact: Of a float32 ``x``, return float32.

        Returns:
            ``[..., dim]``, of the weight's dtype, or of that of ``x`` where it is to be exact.
        """
        out = torch.empty(x.shape, dtype=x.dtype if exact else weight.dtype, device="cpu")
        dim = x.shape[-1]
        self._library.polar_norm(
            *(_kind(x), _kind(weight), _kind(out)),
            *(_pointer(x), _pointer(weight), _pointer(out)),
            ctypes.c_long(x.numel() // dim),
            ctypes.c_long(dim),
            ctypes.c_float(eps),
            int(plus_one),
            torch.get_num_threads(),
        )
        return out

    def add(self, x: torch.Tensor, branch: torch.Tensor) -> None:
        """Adds a branch of the same shape, float32 or bfloat16, to a float32 ``x`` in place; both contiguous."""
        self._library.polar_add(
            _kind(branch), _pointer(x), _pointer(branch), ctypes.c_long(x.numel()), torch.get_num_threads()
        )

    def rotate(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> None:
        """Writes ``x`` with rotary positions to ``out``.

        Args:
            x: ``[tokens, heads, dim]``, the last two contiguous; of the dtype of ``out`` or float32.
            cos: float32 ``[tokens, dim]``, contiguous.
            sin: float32 ``[tokens, dim]``, contiguous.
            out: ``[tokens, heads, dim]``, the last two contiguous.
        """
        tokens, heads, dim = x.shape
        self._library.polar_rotate(
            _kind(x),
            _kind(out),
            _pointer(x),
            ctypes.c_long(x.stride(0)),
            _pointer(cos),
            _pointer(sin),
            _pointer(out),
            ctypes.c_long(out.stride(0)),
            ctypes.c_long(tokens),
            heads,
            dim,
            torch.get_num_threads(),
        )

    def gate(self, gate: torch.Tensor, up: torch.Tensor, activation: Activation) -> torch.Tensor:
        """Returns ``activation(gate) * up``, in the memory of ``gate``; both contiguous and of one shape."""
        self._library.polar_gate(
            _kind(gate),
            _pointer(gate),
            _pointer(up),
            ctypes.c_long(gate.numel()),
            ACTIVATIONS[activation],
            torch.get_num_threads(),
        )
        return gate

    def attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        pieces: Pieces,
        spans: Spans,
        *,
        scale: float,
        softcap: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """Returns what ``polar_ray.engine.attention.attend`` returns; the last two dimensions must be contiguous."""
        tokens, heads, dim = query.shape
        kv_heads = key.shape[1]
        out = torch.empty(tokens, heads, dim, dtype=query.dtype, device="cpu")
        lengths = pieces.length.ctypes.data_as(ctypes.c_void_p)
        size = self._library.polar_attention_workspace(
            _kind(query), kv_heads, dim, len(pieces.length), lengths, torch.get_num_threads()
        )
        if self._workspace.numel() < size:
            # Kept, since fresh memory costs as much time as what is written to it.
            self._workspace = torch.empty(size, dtype=torch.uint8, device="cpu")
        failed = self._library.polar_attention(
            _kind(query),
            _pointer(query),
            ctypes.c_long(query.stride(0)),
            _pointer(key),
            ctypes.c_long(key.stride(0)),
            _pointer(value),
            ctypes.c_long(value.stride(0)),
            _pointer(out),
            ctypes.c_long(out.stride(0)),
            kv_heads,
            heads // kv_heads,
            dim,
            len(pieces.length),
            *(array.ctypes.data_as(ctypes.c_void_p) for array in (pieces.start, pieces.length, pieces.position)),
            len(spans.length),
            *(
                array.ctypes.data_as(ctypes.c_void_p)
                for array in (spans.start, spans.length, spans.position, spans.chain_start, spans.chain)
            ),
            ctypes.c_float(scale),
            ctypes.c_float(softcap or 0.0),
            window or 0,
            _pointer(self._workspace),
            torch.get_num_threads(),
        )
        if failed:
            raise MemoryError("not enough memory for the attention's tables")
        return out


def _kind(tensor: torch.Tensor) -> int:
    return int(tensor.dtype == torch.bfloat16)


def _pointer(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def load_kernels() -> Kernels | None:
    """Returns the kernels, compiled on the first call on a machine, or None where there is no way to.

    Each call returns its own, so that engines in several threads do not write to one workspace. The library lies in
    the user's cache folder, under a name that says what it was compiled from, with and for. ``POLAR_RAY_KERNELS=off``
    in the environment does without.
    """
    library = _library()
    return None if library is None else Kernels(library)


@cache
def _library() -> ctypes.CDLL | None:
    if os.environ.get("POLAR_RAY_KERNELS", "on") == "off":
        return None
    compiler = os.environ.get("CC", "").strip() or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        logger.info("No C compiler was found, so the engine runs on torch's own operations, which is slower.")
        return None
    try:
        return load_compiled(_SOURCE, shlex.split(compiler), _FUNCTIONS)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        # A ValueError is of a command that cannot be split.
        told = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        logger.warning(
            "The engine's kernels cannot be compiled with %s (%s). It runs on torch's own operations, which is slower; "
            "install gcc, or set POLAR_RAY_KERNELS=off to do without.",
            compiler,
            str(told).strip()[-500:],
        )
        return None
