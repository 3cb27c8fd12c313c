"""The dtypes that a backbone can run in."""

from typing import Literal

import torch

DType = Literal["float32", "bfloat16", "float16"]

TORCH_DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
