"""A rank other than the first: a process that holds its part of a model and follows the first rank's forwards.

It reads what to do from its standard input, where the first rank writes it (see ``ranks``), and ends when that is
closed: so it ends with the first rank, however that ends.
"""

import os
import pickle
import queue
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import BinaryIO, cast

import numpy as np
import torch
import torch.distributed as dist
from transformers import PreTrainedConfig, PreTrainedModel

from polar_ray.engine.kernels import Kernels, load_kernels
from polar_ray.engine.layout import Layout
from polar_ray.engine.linear import pack_linears
from polar_ray.engine.memory import free_bytes, keep_freed_memory
from polar_ray.engine.packed import PackedModel
from polar_ray.engine.plain import read_plainly
from polar_ray.engine.row import KeptKeys, Row
from polar_ray.engine.shards import Group, part, set_part, sum_outputs


@dataclass(frozen=True)
class Setup:
    """What a rank is told first.

    Attributes:
        rank: Its number, from 1 on.
        ranks: How many there are, the first included.
        meeting: The open file, of the same number in all the ranks, through which they find each other.
        device: Where it computes.
        dtype: The backbone's dtype.
        backbone: The class of the backbone.
        config: The backbone's config.
        fused: Whether it uses what makes the first rank fast.
        threads: Threads on the CPU.
        timeout_s: Seconds in which the ranks must find each other.
    """

    rank: int
    ranks: int
    meeting: int
    device: torch.device
    dtype: torch.dtype
    backbone: type[PreTrainedModel]
    config: PreTrainedConfig
    fused: bool
    threads: int
    timeout_s: float


@dataclass(frozen=True)
class PackedForward:
    """A forward over a packed row; see ``Row``.

    Attributes:
        layout: Where everything lies.
        before: The runs of earlier forwards that it reads.
        keep: The runs of it that later forwards read.
        kept: All runs of earlier forwards that are still needed; the others are forgotten.
    """

    layout: Layout
    before: tuple[int, ...]
    keep: tuple[int, ...]
    kept: frozenset[int]


@dataclass(frozen=True)
class PlainForward:
    """A forward over padded sequences."""

    sequences: Sequence[np.ndarray]


def join(meeting: int, rank: int, ranks: int, device: torch.device, timeout_s: float) -> Group:
    """Returns the group of the ranks, after all have joined: NCCL on CUDA, gloo over the loopback device on the CPU.

    The group is not torch's default group of the process, which is left to whoever else wants it.
    """
    store = dist.FileStore(f"/proc/self/fd/{meeting}", ranks)  # type: ignore[attr-defined]
    timeout = timedelta(seconds=timeout_s)
    if device.type == "cuda":
        nccl = dist.ProcessGroupNCCL.Options()
        nccl._timeout = timeout
        return cast(Group, dist.ProcessGroupNCCL(store, rank, ranks, nccl))
    gloo = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    # By default gloo listens at what the host's name resolves to, if it does.
    gloo._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    gloo._timeout = timeout
    return cast(Group, dist.ProcessGroupGloo(store, rank, ranks, gloo))


def _receive(setup: Setup, group: Group) -> PreTrainedModel:
    """Returns the backbone with this rank's part of the weights, which the first rank sends one after the other."""
    with torch.device("meta"):
        backbone = setup.backbone(setup.config)
    for name, parameter in list(backbone.named_parameters()):
        mine = part(name, parameter, setup.rank, setup.ranks)
        if mine is not None:
            mine = torch.empty(mine.shape, dtype=setup.dtype, device=setup.device)
            group.recv([mine], 0, 0).wait()
        set_part(backbone, name, mine)
    for name, buffer in list(backbone.named_buffers()):
        value = torch.empty(buffer.shape, dtype=buffer.dtype, device=setup.device)
        group.recv([value], 0, 0).wait()
        path, _, key = name.rpartition(".")
        backbone.get_submodule(path)._buffers[key] = value
    sum_outputs(backbone, group)
    return backbone.eval()


def _follow(inbox: BinaryIO, orders: "queue.SimpleQueue[PackedForward | PlainForward]") -> None:
    """Reads orders until there can be no more, and then ends the process, whatever it is at."""
    while True:
        try:
            orders.put(pickle.load(inbox))
        except EOFError:
            os._exit(0)


@torch.inference_mode()
def main() -> None:
    """Runs a rank from standard input; writes a byte to standard output when it can join, and its free memory."""
    inbox = sys.stdin.buffer
    outbox = os.fdopen(os.dup(1), "wb", buffering=0)
    # Whatever prints must not be taken for an answer.
    os.dup2(2, 1)
    setup: Setup = pickle.load(inbox)
    orders: queue.SimpleQueue[PackedForward | PlainForward] = queue.SimpleQueue()
    threading.Thread(target=_follow, args=(inbox, orders), daemon=True).start()
    torch.set_num_threads(setup.threads)
    if setup.device.type == "cuda":
        torch.cuda.set_device(setup.device)
        torch.empty(1, device=setup.device)
    outbox.write(b"+")
    group = join(setup.meeting, setup.rank, setup.ranks, setup.device, setup.timeout_s)
    backbone = _receive(setup, group)
    kernels: Kernels | None = None
    if setup.fused and setup.device.type == "cpu":
        keep_freed_memory()
        kernels = load_kernels() if setup.dtype in (torch.float32, torch.bfloat16) else None
        pack_linears(backbone, None if kernels is None else kernels.products)
    packed = PackedModel(backbone, kernels)
    pickle.dump(free_bytes(setup.device), outbox)
    kept = KeptKeys()
    while True:
        order = orders.get()
        if isinstance(order, PlainForward):
            read_plainly(backbone, order.sequences, setup.device)
            continue
        kept.by_run = {run: layers for run, layers in kept.by_run.items() if run in order.kept}
        packed.read(Row(order.layout, kept, order.before, order.keep, kernels, setup.device))
