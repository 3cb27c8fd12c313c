"""Recipes with an adapter: loading, the fingerprint, and what a plan says of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from polar_ray.data.group import Candidate, Group, Message
from polar_ray.errors import CheckpointError
from polar_ray.recipe.recipe import Recipe
from polar_ray.recipe.scorers import InternLM2Reward, Polar
from polar_ray.running.plan import plan
from polar_ray.scorers.catalog import fingerprint_of
from polar_ray.scorers.internlm2_reward import InternLM2RewardScorer

torch.set_num_threads(1)
MODEL = Path(__file__).parents[1] / "golden" / "polar" / "internlm2_reward_tiny"
CHEAP = {"dtype": "float32", "device": "cpu", "self_check": "numeric"}
GROUP = Group("p", (Message("user", "2+2?"),), (), tuple(Candidate(t, (Message("assistant", t),)) for t in "45"))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter that replaces the head by its negative, and no more."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["wo"], "modules_to_save": ["v_head"]}
    weights = load_file(MODEL / "model.safetensors")
    tensors = {"v_head.weight": -weights["v_head.weight"]}
    for name in ("model.layers.0.attention.wo", "model.layers.1.attention.wo"):
        rows, columns = weights[f"{name}.weight"].shape
        tensors |= {f"{name}.lora_A.weight": torch.zeros(1, columns), f"{name}.lora_B.weight": torch.zeros(rows, 1)}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/x/another"}))
    save_file(
        {f"base_model.model.{k}": v.contiguous() for k, v in tensors.items()}, folder / "adapter_model.safetensors"
    )
    return folder


def rewards_with(**settings: Any) -> np.ndarray:
    scorer = InternLM2RewardScorer.from_pretrained(MODEL, **CHEAP | settings)
    return np.array([score.reward for score in scorer.score([GROUP])[0]])


def test_an_adapter_is_merged_and_another_base_is_warned_of(adapter: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.testing.assert_allclose(rewards_with(adapter=str(adapter)), -rewards_with(), atol=1e-5)
    assert f"was trained on /x/another, but model is {MODEL}" in caplog.text


def test_the_adapters_files_are_in_the_fingerprint_and_its_name_is_not(adapter: Path) -> None:
    plain = fingerprint_of(InternLM2Reward(model=str(MODEL)))
    adapted = fingerprint_of(InternLM2Reward(model=str(MODEL), adapter=str(adapter)))
    assert adapted.keys() - plain.keys() == {
        "file:adapter/adapter_config.json",
        "file:adapter/adapter_model.safetensors",
    }
    moved = adapter.rename(adapter.with_name("moved"))
    assert fingerprint_of(InternLM2Reward(model=str(MODEL), adapter=str(moved))) == adapted
    tensors = load_file(moved / "adapter_model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, moved / "adapter_model.safetensors")
    changed = fingerprint_of(InternLM2Reward(model=str(MODEL), adapter=str(moved)))
    assert {key for key in adapted if adapted[key] != changed[key]} == {"file:adapter/adapter_model.safetensors"}


def test_a_run_without_an_adapter_has_the_fingerprint_that_it_had_before_there_were_any() -> None:
    assert not [key for key in fingerprint_of(Polar(model=str(MODEL))) if "adapter" in key]


def test_a_plan_says_that_the_adapter_was_trained_on_another_model(adapter: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    candidates = [{"messages": [{"role": "assistant", "content": "4"}]}]
    source.write_text(json.dumps({"prompt": [{"role": "user", "content": "2+2?"}], "candidates": candidates}) + "\n")
    recipe = {
        "input": {"path": str(source)},
        "scorer": {"kind": "internlm2_reward", "model": str(MODEL), "adapter": str(adapter)},
        "output": {"path": str(tmp_path / "out")},
    }
    (warning,) = plan(Recipe.of(recipe)).warnings
    assert "was trained on /x/another" in warning
    del recipe["scorer"]["adapter"]  # type: ignore[attr-defined]
    assert plan(Recipe.of(recipe)).warnings == []


def test_an_adapter_that_is_not_there_is_refused() -> None:
    with pytest.raises(CheckpointError, match="There is no folder /nowhere"):
        rewards_with(adapter="/nowhere")
