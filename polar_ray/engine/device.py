"""Where a model runs and what its dtype means for its scores."""

from typing import Literal

import torch

from polar_ray.errors import RecipeError
from polar_ray.models.dtype import DType

Device = Literal["auto", "cpu", "cuda"]

BATCH_TOLERANCE: dict[DType, float] = {"float32": 1e-4, "bfloat16": 0.25, "float16": 0.05}
"""How far a reward may move, relative to ``max(1, |reward|)``, with the sequences that it is batched with.

Kernels choose the order of their sums by the shape of the batch, so the last bits differ. A sequence that sees its
neighbours or its padding is off by far more: about 1 on the golden checkpoints.
"""


def check_devices(device: torch.device, ranks: int) -> None:
    """Checks that there are enough devices of this kind for so many ranks.

    Raises:
        RecipeError: There are not.
    """
    if device.type == "cuda" and torch.cuda.device_count() < ranks:
        raise RecipeError(
            f"The model is to be spread over {ranks} devices, but this process sees {torch.cuda.device_count()}. Set "
            f"compute.gpus_per_actor: {ranks}, or ranks to what there is."
        )


def pick_device(device: Device) -> torch.device:
    """Returns the device; ``auto`` takes CUDA where there is one.

    Raises:
        RecipeError: ``cuda`` is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RecipeError(
            "device: cuda was asked for, but torch sees no CUDA device in this process. Set device: cpu or auto, or "
            "give the actors GPUs (compute.gpus_per_actor) and install a CUDA build of torch."
        )
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
