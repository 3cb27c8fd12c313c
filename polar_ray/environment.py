"""Versions and devices, for bug reports."""

import os
import platform
from importlib import metadata

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
    return found
