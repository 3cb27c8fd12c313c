"""Versions, devices and what killed drivers have left, for bug reports."""

import os
import platform
from importlib import metadata

from polar_ray.running.embedded import leftovers

_PACKAGES = ("ray", "torch", "transformers", "tokenizers", "sentencepiece", "pyarrow", "numpy", "pandas", "math-verify")


def environment() -> dict[str, str]:
    """Returns names and values of what decides how scoring behaves on this machine."""
    import torch

    found = {"polar-ray": metadata.version("polar-ray"), "python": platform.python_version()}
    found["platform"] = platform.platform()
    found["cpu"] = f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found["cuda"] = f"{torch.version.cuda}: {', '.join(names)}"
    else:
        found["cuda"] = "no device"
    for package in _PACKAGES:
        found[package] = metadata.version(package)
    for number, left in enumerate(leftovers(), 1):
        count = len(left.processes)
        found[f"leftover-{number}"] = (
            f"{left.folder} with {count or 'no'} process{'es' if count > 1 else ''}, of a driver that was killed; the "
            "next run that starts Ray inside its process ends and deletes them"
        )
    return found
