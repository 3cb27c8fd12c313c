"""How much memory there is, what a forward takes of it, and so how many tokens go into one."""

import ctypes
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import torch

_USED = 0.5
"""The share of the free memory that one forward may take; the rest is for what is not counted."""
_ENOUGH = {"cpu": 4096, "cuda": 65536}
"""Tokens at which matrix products are as fast as they get. A larger forward only takes more memory, and cache."""
_ATTENTION_PER_TOKEN = 8192
"""Pairs of attention in a forward for each token of its budget, so that no forward takes much longer than others."""


def token_budget(config: Any, dtype: torch.dtype, device: torch.device, free: int | None = None) -> int:
    """Returns the tokens of one forward for which there is memory, and which are enough.

    It is rounded down to a power of two, so that actors and later attempts that find a little more or less memory plan
    alike: the last bits of a score depend on the plan.

    Args:
        config: The backbone's config.
        dtype: The backbone's dtype.
        device: Where it runs; its weights are there already.
        free: Bytes that are free there; None looks.
    """
    free = free_bytes(device) if free is None else free
    enough = _ENOUGH[device.type]
    if free is None:
        return enough
    fitting = max(1, int(_USED * free) // bytes_per_token(config, dtype))
    return min(enough, 1 << (fitting.bit_length() - 1))


def attention_budget(tokens: int) -> int:
    """Returns the pairs of attention of one forward for its budget of tokens."""
    return tokens * _ATTENTION_PER_TOKEN


def bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Returns an upper estimate of what one token of a forward takes beside the weights.

    Hidden states and residuals, what is between the matrix products of the largest layer, and the keys and values of
    all layers, since a run may be kept for later forwards.
    """
    settings = config.to_dict()
    hidden = config.hidden_size
    inner = settings.get("intermediate_size") or 4 * hidden
    heads = config.num_attention_heads
    head_dim = settings.get("head_dim") or hidden // heads
    kv_dim = (settings.get("num_key_value_heads") or heads) * head_dim
    numbers = 6 * hidden + 3 * inner + 3 * (heads * head_dim + 2 * kv_dim) + 2 * config.num_hidden_layers * kv_dim
    return int(numbers) * dtype.itemsize


def free_bytes(device: torch.device) -> int | None:
    """Returns the device's free memory in bytes, or None where it cannot be known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":") for line in lines)
    free = int(sizes["MemAvailable"].split()[0]) * 1024
    left = free_of_group(Path("/sys/fs/cgroup"))
    return free if left is None else min(free, left)


def free_of_group(root: Path) -> int | None:
    """Returns the bytes that this process' control group may still take, or None where it has no limit.

    What it holds of files that were read (a checkpoint, say) counts as used by the kernel's figures, but is given back
    when memory is asked for.

    Args:
        root: Where control groups are mounted, of version 2 or of version 1.
    """
    for folder, limit, usage, cached in (
        (root, "memory.max", "memory.current", "inactive_file"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = (folder / limit).read_text().strip()
            used = int((folder / usage).read_text())
            figures = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        return None if most == "max" else max(0, int(most) - used + int(figures.get(cached, 0)))
    return None


def keep_freed_memory() -> None:
    """Tells glibc to keep up to 1 GiB of freed memory for the next forward, where this process runs on glibc.

    By default it gives large blocks back to the system at once, which then hands out cleared pages again: a few per
    cent of a forward's time. Where the address space is limited it is left as it is, since kept memory is in pieces.
    """
    library = _glibc()
    if library is not None and resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        trim_threshold, mmap_threshold = -1, -3
        library.mallopt(mmap_threshold, 32 * 2**20)
        library.mallopt(trim_threshold, 2**30)


def give_back_memory(device: torch.device) -> None:
    """Gives freed memory back to the system, so that blocks of another size can be had."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif (library := _glibc()) is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL("libc.so.6")
