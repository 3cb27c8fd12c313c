"""The token budget, from the free memory and the model's shapes."""

from typing import Any

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from polar_ray.engine import memory
from polar_ray.engine.memory import attention_budget, bytes_per_token, free_bytes, token_budget

CPU = torch.device("cpu")
SHAPES: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 16384,
    "num_hidden_layers": 32,
    "pad_token_id": None,
}


def test_a_token_takes_its_hidden_states_and_its_keys_and_values_of_all_layers() -> None:
    config = LlamaConfig(**SHAPES, num_attention_heads=32, num_key_value_heads=8)
    keys_and_values = 2 * 32 * 8 * 128
    between_products = 6 * 4096 + 3 * 16384 + 3 * (32 * 128 + 2 * 8 * 128)
    assert bytes_per_token(config, torch.bfloat16) == 2 * (keys_and_values + between_products)
    assert bytes_per_token(config, torch.float32) == 2 * bytes_per_token(config, torch.bfloat16)


def test_configs_that_leave_shapes_out_mean_the_usual_ones() -> None:
    config = GPT2Config(n_embd=64, n_head=4, n_layer=2)
    between_products = 6 * 64 + 3 * 4 * 64 + 3 * 3 * 64
    assert bytes_per_token(config, torch.float32) == 4 * (between_products + 2 * 2 * 64)


@pytest.mark.skipif(free_bytes(CPU) is None, reason="does not say how much memory is free")
def test_free_memory_is_a_part_of_the_machines() -> None:
    free = free_bytes(CPU)
    assert free is not None
    assert 2**20 < free < 2**50


def test_a_budget_takes_half_of_the_free_memory_and_no_more_than_is_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LlamaConfig(**SHAPES, num_attention_heads=32)
    each = bytes_per_token(config, torch.float32)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2000 * each)
    assert token_budget(config, torch.float32, CPU) == 1000
    assert token_budget(config, torch.bfloat16, CPU) == 2000
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**6 * each)
    assert token_budget(config, torch.float32, CPU) == 4096
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    assert token_budget(config, torch.float32, CPU) == 4096


def test_a_forward_attends_to_a_bounded_multiple_of_its_tokens() -> None:
    assert attention_budget(4096) == 4096 * 8192
