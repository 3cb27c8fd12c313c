"""The number of threads that torch is told is the number that compute, in the kernels and in oneDNN's products.

Threads of the operating system are counted, in a process of its own that starts as Ray starts an actor's: with
``OMP_NUM_THREADS=1``.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from polar_ray.engine.kernels import load_kernels

ROOT = Path(__file__).parents[2]
CODE = """
import os
import torch
from polar_ray.engine.kernels import load_kernels

kernels = load_kernels()
torch.set_num_threads({threads})
x, weight = torch.randn(2048, 768), torch.randn(768, 768)
before = len(os.listdir("/proc/self/task"))
{work}
print(len(os.listdir("/proc/self/task")) - before)
"""
KERNEL = "kernels.rms_norm(x, weight[0], 1e-5)"
PRODUCT = "torch.ops.mkldnn._linear_pointwise(x, weight, None, 'none', [], '')"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux shows them")
@pytest.mark.skipif(load_kernels() is None, reason="needs a C compiler")
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("work", [KERNEL, PRODUCT], ids=["kernel", "product"])
def test_as_many_threads_compute_as_torch_was_told(work: str, threads: int) -> None:
    result = subprocess.run(
        [sys.executable, "-c", CODE.format(threads=threads, work=work)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(result.stdout) == threads - 1
