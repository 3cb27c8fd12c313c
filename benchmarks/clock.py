"""The clocks of the engine's benchmark, and the speed of this machine's matrix products by them."""

import time
from collections.abc import Callable
from typing import Literal

import torch

Name = Literal["cpu", "wall"]


def clock(name: Name, threads: int) -> Callable[[], float]:
    """Returns a clock in seconds.

    Args:
        name: ``wall`` is the wall's. ``cpu`` is the process' time by its threads, in which it does not count what else
            the machine does; nor does it count a thread that waits for others.
        threads: Threads that compute.
    """
    return time.perf_counter if name == "wall" else lambda: time.process_time() / threads


def matrix_peak(dtype: torch.dtype, now: Callable[[], float]) -> float:
    """Returns the operations per second of the fastest of some matrix products, through oneDNN with packed weights."""
    best = 0.0
    for rows, inner, columns in ((512, 768, 2048), (1024, 2048, 768), (1024, 1024, 1024)):
        x, weight = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
        weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        for _ in range(8):
            start = now()
            torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
            best = max(best, 2.0 * rows * inner * columns / max(now() - start, 1e-9))
    return best
