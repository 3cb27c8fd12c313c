"""The token budget, from the free memory and the model's shapes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from polar_ray.engine import memory
from polar_ray.engine.memory import attention_budget, bytes_per_token, free_bytes, free_of_group, token_budget

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


def write_group(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(f"{text}\n")


def test_a_checkpoint_that_was_read_does_not_count_as_memory_in_use(tmp_path: Path) -> None:
    # 14 of 16 GiB used, 12 of them file pages that the kernel gives back: as in a container that has loaded a model.
    stat = f"anon {2 * 2**30}\nfile {12 * 2**30}\ninactive_file {12 * 2**30}\nactive_file 0"
    write_group(tmp_path, max=str(16 * 2**30), current=str(14 * 2**30), stat=stat)
    assert free_of_group(tmp_path) == 14 * 2**30


def test_a_control_group_of_the_first_version_limits_as_well(tmp_path: Path) -> None:
    write_group(tmp_path / "memory", limit_in_bytes="1000", usage_in_bytes="700", stat="total_inactive_file 50")
    assert free_of_group(tmp_path) == 350


def test_a_control_group_without_a_limit_takes_nothing_away(tmp_path: Path) -> None:
    assert free_of_group(tmp_path) is None
    write_group(tmp_path, max="max", current="700", stat="inactive_file 50")
    assert free_of_group(tmp_path) is None


def test_a_budget_takes_half_of_the_free_memory_and_no_more_than_is_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LlamaConfig(**SHAPES, num_attention_heads=32)
    each = bytes_per_token(config, torch.float32)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2000 * each)
    # Down to a power of two: actors that find a little more or less must plan alike.
    assert token_budget(config, torch.float32, CPU) == 512
    assert token_budget(config, torch.bfloat16, CPU) == 1024
    assert token_budget(config, torch.float32, CPU, 2048 * each) == 1024
    assert token_budget(config, torch.float32, CPU, 2047 * each) == 512
    assert token_budget(config, torch.float32, CPU, 0) == 1
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**6 * each)
    assert token_budget(config, torch.float32, CPU) == 4096
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    assert token_budget(config, torch.float32, CPU) == 4096


def test_a_forward_attends_to_a_bounded_multiple_of_its_tokens() -> None:
    assert attention_budget(4096) == 4096 * 8192
