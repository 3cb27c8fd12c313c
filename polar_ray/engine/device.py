"""Where a model runs and what its dtype means for its scores."""

from typing import Literal

import numpy as np
import torch

from polar_ray.errors import RecipeError
from polar_ray.models.dtype import DType

Device = Literal["auto", "cpu", "cuda"]

USUAL_ROUNDING: dict[DType, float] = {"float32": 1e-4, "bfloat16": 0.06, "float16": 0.0125}
"""How far two ways of computing a reward may always be apart, relative to ``max(1, |reward|)``.

Kernels choose the order of their sums by the shape of what they are given, so the last bits differ: in bfloat16 by 0.03
at most in models of a hundred million parameters. A sequence that sees its neighbours or its padding is off by far
more, about 1 on the golden checkpoints.
"""
MOST_ROUNDING: dict[DType, float] = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.05}
"""How far they may be apart where a model is so badly conditioned that most of its rewards are far apart.

That is no fault of either way: held to float64, the engine is no further off than a plain forward in float32 is
(``tests/laws/test_nearest_to_float64.py``). In bfloat16 the largest of 200 distances between the engine and plain
forwards was 0.15 in a tiny model with large random weights, and below 0.05 in one of a hundred million parameters, for
the most part the plain forwards' own; a third is added.
"""
_MEAN_ROUNDING: dict[DType, float] = {"float32": 1e-4, "bfloat16": 0.04, "float16": 0.01}
_TIMES_MEDIAN = 10.0


def allowed_rounding(relative: np.ndarray, dtype: DType) -> float:
    """Returns how far a reward may be from the same computed otherwise, by how far they are apart for the most part.

    What a wrong position or a wrong neighbour does to some rewards stands out from what rounding does to all: what is
    normally distributed is beyond ten times its median in no reward of a run. Where their mean says that all are wrong,
    they are held to ``USUAL_ROUNDING``.

    Args:
        relative: ``[N]``, the distances of a sample relative to ``max(1, |reward|)``, finite.
        dtype: The model's.
    """
    if not len(relative) or relative.mean() > _MEAN_ROUNDING[dtype]:
        return USUAL_ROUNDING[dtype]
    return min(max(_TIMES_MEDIAN * float(np.median(relative)), USUAL_ROUNDING[dtype]), MOST_ROUNDING[dtype])


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
