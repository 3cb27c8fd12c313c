"""Whether a checkpoint's config describes a model of the size of its weights, before anything of that size is made.

A config is a few numbers of a file from elsewhere: ten million layers keep a process busy until its memory is full.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import safe_open

from polar_ray.errors import CheckpointError
from polar_ray.models.checkpoint import reading, weight_files

_MODULES = (
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers"),
    *("num_experts", "num_local_experts", "n_routed_experts"),
)
"""What a config may call the numbers of parts that are made one by one."""
_SMALL = 1_000_000
"""Numbers that a model may have beyond twice those of its checkpoint: those of a small head or table, say."""


def check_parts(folder: Path, config: Mapping[str, Any]) -> None:
    """Makes sure that a config describes no more layers than the weights can be of.

    Raises:
        CheckpointError: There are more layers, or experts, than tensors and rows of one; or the weights cannot be read.
    """
    shapes = _shapes(folder)
    # Each layer has a tensor of its own. Experts may lie in one tensor, one beside the other.
    most = max([len(shapes), *(size for shape in shapes for size in shape[:1])], default=0)
    for name in _MODULES:
        number = config.get(name)
        if isinstance(number, int) and number > (len(shapes) if "layer" in name else most):
            raise CheckpointError(
                f"{folder}/config.json has {name} {number:,}, but the weights beside it are {len(shapes):,} tensors: "
                "it is not the config of this model. Download both again."
            )


def check_numbers(folder: Path, described: int) -> None:
    """Makes sure that the model that a config describes has about as many numbers as the weights.

    Up to twice as many are let through: what is missing is named where the weights are loaded.

    Raises:
        CheckpointError: It has far more; or the weights cannot be read.
    """
    stored = sum(map(prod, _shapes(folder)))
    if described > 2 * stored + _SMALL:
        raise CheckpointError(
            f"{folder}/config.json describes a model of {described:,} numbers, but the weights beside it have "
            f"{stored:,}: it is not the config of this model. Download both again."
        )


def _shapes(folder: Path) -> list[tuple[int, ...]]:
    """Returns the shape of each tensor of a checkpoint, as far as there are bytes for it."""
    shapes: list[tuple[int, ...]] = []
    for path in weight_files(folder):
        with reading(path):
            if path.suffix == ".safetensors":
                # A header that goes beyond its file is refused when it is opened.
                with safe_open(path, framework="pt") as tensors:
                    shapes += [tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()]  # noqa: SIM118
            else:
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
                # A tensor that repeats its numbers has more of them than bytes.
                shapes += [
                    tuple(tensor.shape)
                    if tensor.nbytes <= tensor.untyped_storage().nbytes()
                    else (tensor.untyped_storage().nbytes() // tensor.itemsize,)
                    for tensor in content.values()
                    if isinstance(tensor, torch.Tensor)
                ]
    return shapes
