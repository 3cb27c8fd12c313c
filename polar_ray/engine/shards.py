"""Tensor parallelism: which part of a model's weights each rank holds, and where the ranks' results are added up.

Each rank computes some heads of the attention and some columns of the feed-forward part (Megatron-LM, arXiv
1909.08053): the projections into them are split by rows of their weight, those out of them by columns, and after each
of the latter the ranks' outputs are summed. Embeddings, norms and the head are not split.

transformers' own ``tp_plan`` splits the same layers, but loads its parts from files by itself and wraps what goes in
and out as DTensors; packed rows, weights laid out for the processor and merged adapters need plain tensors.
"""

from typing import Any, Protocol

import torch

from polar_ray.engine.fused import DECODER_LAYERS
from polar_ray.errors import RecipeError

_INTO = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_OUT_OF = ("self_attn.o_proj", "mlp.down_proj")


class Work(Protocol):
    """Something that torch.distributed has begun."""

    def wait(self) -> bool:
        """Makes what follows wait for its end: the host on the CPU, the device's stream on CUDA."""
        ...


class Group(Protocol):
    """The ranks, as torch.distributed's backends have them; their stubs leave these methods out."""

    def allreduce(self, tensors: list[torch.Tensor]) -> Work:
        """Replaces a tensor by its sum over the ranks."""
        ...

    def send(self, tensors: list[torch.Tensor], rank: int, tag: int) -> Work:
        """Sends a tensor to a rank."""
        ...

    def recv(self, tensors: list[torch.Tensor], rank: int, tag: int) -> Work:
        """Fills a tensor with what a rank sends."""
        ...

    def abort(self) -> None:
        """Ends what waits for a rank."""
        ...


class SummedLinear(torch.nn.Module):
    """A rank's part of a linear layer whose input is split: its output is summed over the ranks."""

    def __init__(self, linear: torch.nn.Linear, group: Group) -> None:
        super().__init__()
        self.linear: torch.nn.Module = linear
        self._group = group

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns ``[..., out_features]`` for this rank's ``[..., in_features]``, the same on every rank."""
        out: torch.Tensor = self.linear(x)
        self._group.allreduce([out]).wait()
        return out


def check_splits(backbone: Any, ranks: int) -> None:
    """Checks that a model can be split over so many ranks.

    Raises:
        RecipeError: It is of another kind than is known, or its heads or columns do not divide.
    """
    layer = type(backbone.layers[0]).__name__ if "layers" in dict(backbone.named_children()) else ""
    if layer not in DECODER_LAYERS:
        known = ", ".join(sorted(name.removesuffix("DecoderLayer") for name in DECODER_LAYERS))
        raise RecipeError(
            f"A {type(backbone).__name__} cannot be split over {ranks} devices; those that can are {known}. Set "
            "compute.gpus_per_actor: 1."
        )
    config = backbone.config
    sizes = {
        "attention heads": config.num_attention_heads,
        "key-value heads": config.num_key_value_heads,
        "feed-forward columns": config.intermediate_size,
    }
    wrong = [f"{size} {name}" for name, size in sizes.items() if size % ranks]
    if wrong:
        fitting = [n for n in range(2, ranks) if not any(size % n for size in sizes.values())]
        remedy = " or ".join(map(str, [1, *fitting]))
        raise RecipeError(
            f"The model's {', '.join(wrong)} cannot be split evenly over {ranks} devices. Set compute.gpus_per_actor "
            f"to {remedy}."
        )


def part(name: str, tensor: torch.Tensor, rank: int, ranks: int) -> torch.Tensor | None:
    """Returns a rank's part of a parameter, a view of it; None where it has none.

    Args:
        name: The parameter's name in the backbone.
        tensor: All of it.
        rank: From 0 on.
        ranks: How many there are.
    """
    module, _, kind = name.rpartition(".")
    end = ".".join(module.split(".")[-2:])
    if end in _INTO:
        return tensor.chunk(ranks, dim=0)[rank]
    if end in _OUT_OF:
        if kind == "bias":
            # Added once to the sum.
            return tensor if rank == 0 else None
        return tensor.chunk(ranks, dim=1)[rank]
    return tensor


def set_part(backbone: torch.nn.Module, name: str, tensor: torch.Tensor | None) -> None:
    """Puts a rank's part in a parameter's place."""
    path, _, kind = name.rpartition(".")
    module = backbone.get_submodule(path)
    if tensor is None:
        module.register_parameter(kind, None)
        return
    module.register_parameter(kind, torch.nn.Parameter(tensor, requires_grad=False))
    if isinstance(module, torch.nn.Linear) and kind == "weight":
        module.out_features, module.in_features = tensor.shape


def sum_outputs(backbone: Any, group: Group) -> None:
    """Makes the layers whose inputs are split sum their outputs over the ranks."""
    for layer in backbone.layers:
        for path in _OUT_OF:
            parent, _, name = path.rpartition(".")
            module = layer.get_submodule(parent)
            setattr(module, name, SummedLinear(layer.get_submodule(path), group))
