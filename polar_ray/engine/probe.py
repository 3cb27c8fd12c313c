"""The probe at start: does a model come out the same when it is run over packed rows?"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from polar_ray.models.dtype import DType

Reader = Callable[[Sequence[np.ndarray]], torch.Tensor]

TOLERANCE: dict[DType, float] = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.03}
"""Largest distance of hidden states relative to their length.

Rounding stays below (in bfloat16 it is the plain forward's for the most part); a token that sees what it should not, or
a wrong position, is at about 1.
"""

NARROW = 8
"""Tokens of a window in the probe: fewer than most of its sequences have."""
_WINDOWS = ("sliding_window", "attention_chunk_size")


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
    packed: Reader, plain: Reader, backbone: PreTrainedModel, *, vocab_size: int, max_positions: int, dtype: DType
) -> str | None:
    """Returns how packed rows differ from plain forwards, or None if they do not.

    A model with a sliding window is probed a second time with its window narrowed to ``NARROW`` tokens: a sequence that
    is longer than a window of thousands would take too long at start, and short ones do not tell a window from none.

    Args:
        packed: Returns the hidden states at the sequences' ends, ``[N, hidden]``.
        plain: Likewise, from one plain forward for each.
        backbone: The model that both run; it is as it was when this returns.
        vocab_size: Ids are below it.
        max_positions: The longest sequence that the model can be given.
        dtype: The model's dtype.
    """
    sequences = probe_sequences(vocab_size, max_positions)
    wide = plain(sequences).float()
    differs = _differs(packed, sequences, wide, dtype)
    if differs is not None or not windows_of(backbone):
        return differs
    with narrow_windows(backbone):
        narrow = plain(sequences).float()
        if torch.equal(narrow, wide):
            kinds = set(backbone.config.to_dict().get("layer_types") or ["full_attention"])
            return None if kinds == {"full_attention"} else "it does not take up a narrower window, to be probed with"
        differs = _differs(packed, sequences, narrow, dtype)
        if differs is None and float((packed(sequences).float() - narrow).norm()) > float((narrow - wide).norm()) / 2:
            differs = "packed rows give hidden states as if there were no window"
    return None if differs is None else f"with a window of {NARROW} tokens, {differs}"


def _differs(packed: Reader, sequences: Sequence[np.ndarray], expected: torch.Tensor, dtype: DType) -> str | None:
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


def windows_of(backbone: PreTrainedModel) -> dict[str, int]:
    """Returns the settings of a model's config that limit how far back its layers attend."""
    settings = backbone.config.to_dict()
    return {name: settings[name] for name in _WINDOWS if settings.get(name)}


@contextmanager
def narrow_windows(backbone: PreTrainedModel) -> Iterator[None]:
    """Narrows the windows of a model to ``NARROW`` tokens, in its config and in the modules that keep a copy."""
    windows = windows_of(backbone)
    held: list[tuple[Any, str, int]] = [(backbone.config, name, width) for name, width in windows.items()]
    for module in backbone.modules():
        held += [(module, name, width) for name, width in windows.items() if vars(module).get(name) == width]
    for owner, name, _ in held:
        setattr(owner, name, NARROW)
    try:
        yield
    finally:
        for owner, name, width in held:
            setattr(owner, name, width)
