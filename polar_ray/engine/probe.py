"""The probe at start: does a model come out the same when it is run over packed rows?"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from polar_ray.models.dtype import DType

Reader = Callable[[Sequence[np.ndarray]], torch.Tensor]

TOLERANCE: dict[DType, float] = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.03}
"""Largest distance of hidden states relative to their length.

Rounding stays well below; a token that sees what it should not, or a wrong position, is at about 1.
"""


def probe_sequences(vocab_size: int, max_positions: int) -> list[np.ndarray]:
    """Returns sequences of random ids that share beginnings, nested ones too, and one that another begins with."""
    random = np.random.default_rng(0)

    def some(length: int) -> np.ndarray:
        return random.integers(0, vocab_size, length).astype(np.int32)

    system, prompt = some(11), some(17)
    first = np.concatenate([system, prompt, some(7)])
    sequences = [first, np.concatenate([first, some(9)]), np.concatenate([system, prompt, some(23)])]
    sequences += [np.concatenate([system, some(5)]), some(13)]
    return [ids[:max_positions] for ids in sequences]


@torch.inference_mode()
def differs_from_plain(
    packed: Reader, plain: Reader, *, vocab_size: int, max_positions: int, dtype: DType
) -> str | None:
    """Returns how packed rows differ from plain forwards, or None if they do not.

    Args:
        packed: Returns the hidden states at the sequences' ends, ``[N, hidden]``.
        plain: Likewise, from one plain forward for each.
        vocab_size: Ids are below it.
        max_positions: The longest sequence that the model can be given.
        dtype: The model's dtype.
    """
    sequences = probe_sequences(vocab_size, max_positions)
    expected = plain(sequences).float()
    try:
        found = packed(sequences).float()
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        # A model of transformers that does not go through its attention interface can fail in any of these ways.
        return f"packed rows make it fail ({type(error).__name__}: {error})"
    # Damaged weights give NaN either way, which is for the scorer's own check to tell.
    distance = torch.nan_to_num((found - expected).norm(dim=-1) / expected.norm(dim=-1), nan=0.0)
    if bool((found.isnan() != expected.isnan()).any()) or float(distance.max()) > TOLERANCE[dtype]:
        return (
            f"packed rows give hidden states that are off by {float(distance.max()):.2g} of their length, where "
            f"{dtype} allows {TOLERANCE[dtype]}"
        )
    return None
