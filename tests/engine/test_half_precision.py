"""Half precision moves rewards no further from float32 than transformers' own forwards do, at any batch size.

A tiny InternLM2 reward model and 480 random sequences in groups. What rounding does to one reward is a matter of
chance, and so is the largest of 480; the two sides are compared by the root mean square of what it does to all.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from polar_ray.engine.engine import Engine
from polar_ray.models.dtype import DType
from polar_ray.models.internlm2 import load_internlm2_reward

torch.set_num_threads(1)
FOLDER = Path(__file__).parents[1] / "golden" / "polar" / "polar_tiny_a"
BATCH_SIZES = (1, 4, 16)


def make_sequences() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    sequences = []
    for _ in range(60):
        prefix = random.integers(4, 990, random.integers(5, 60))
        sequences += [np.append(prefix, random.integers(4, 990, own)) for own in random.integers(1, 30, 8)]
    return [ids.astype(np.int32) for ids in sequences]


SEQUENCES = make_sequences()


@torch.inference_mode()
def plain_rewards(dtype: DType, batch_size: int) -> np.ndarray:
    """Padded batches through transformers, with an attention mask; the head in float32."""
    torch_dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]
    model = load_internlm2_reward(FOLDER, dtype)
    backbone, head = model.backbone, model.head.float()
    assert next(backbone.parameters()).dtype == torch_dtype
    rewards = []
    for start in range(0, len(SEQUENCES), batch_size):
        batch = SEQUENCES[start : start + batch_size]
        ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence)] = torch.from_numpy(sequence)
            mask[row, : len(sequence)] = 1
        hidden = backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        rewards.append(head(hidden[torch.arange(len(batch)), mask.sum(1) - 1].float())[:, 0])
    return torch.cat(rewards).numpy()


@cache
def exact() -> np.ndarray:
    return plain_rewards("float32", 1)


def off(rewards: np.ndarray) -> float:
    return float(np.sqrt(np.mean((rewards - exact()) ** 2)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_is_no_worse_than_in_plain_batches_of_any_size(dtype: DType) -> None:
    plain = max(off(plain_rewards(dtype, batch_size)) for batch_size in BATCH_SIZES)
    engine = Engine(load_internlm2_reward(FOLDER, dtype), device="cpu", dtype=dtype, token_budget=512)
    assert engine.plain_because is None
    # The root mean square of 480 numbers has a standard deviation of 3 %.
    assert off(engine.score(SEQUENCES)[:, 0]) <= 1.03 * plain


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_ranks_agree_but_for_scores_that_rounding_can_swap(dtype: DType) -> None:
    rewards = Engine(load_internlm2_reward(FOLDER, dtype), device="cpu", dtype=dtype).score(SEQUENCES)[:, 0]
    most = 2 * float(np.abs(plain_rewards(dtype, 1) - exact()).max())
    for group in range(0, len(SEQUENCES), 8):
        ours, theirs = rewards[group : group + 8], exact()[group : group + 8]
        swapped = np.sign(ours[:, None] - ours) != np.sign(theirs[:, None] - theirs)
        assert (np.abs(theirs[:, None] - theirs)[swapped] <= most).all()
