"""Checkpoints whose files are damaged or malicious: one sentence of an error that polar_ray raises, or a model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from fuzzing import damaged, fuzz, replaced
from runs import TESTS
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from polar_ray.errors import CheckpointError, TokenizerError
from polar_ray.models.adapter import Adapter
from polar_ray.models.chat_tokenizer import ChatTokenizer
from polar_ray.models.checkpoint import file_hashes
from polar_ray.models.classifier import load_classifier
from polar_ray.models.classifier_config import read_classifier_config
from polar_ray.models.internlm2 import load_internlm2_reward
from polar_ray.models.internlm2_tokens import load_internlm2_tokens

GOLDEN = TESTS / "golden"
TOKENIZER = GOLDEN / "heads" / "tok_qwen2"
Load = Callable[[Path], object]


def classifier(folder: Path) -> None:
    """A classifier whose weights lie in two shards."""
    shutil.copyfile(GOLDEN / "heads/ckpt_llama_seqcls/config.json", folder / "config.json")
    _in_shards(folder, load_file(GOLDEN / "heads/ckpt_llama_seqcls/model.safetensors"), "model", "safetensors")


def config(folder: Path) -> None:
    """The config of a classifier, which an encoder reads without its weights."""
    shutil.copyfile(GOLDEN / "heads/ckpt_llama_seqcls/config.json", folder / "config.json")


def internlm2(folder: Path) -> None:
    """An InternLM2 reward model whose weights lie in two pickles."""
    shutil.copyfile(GOLDEN / "polar/internlm2_reward_tiny/config.json", folder / "config.json")
    _in_shards(folder, load_file(GOLDEN / "polar/internlm2_reward_tiny/model.safetensors"), "pytorch_model", "bin")


def _in_shards(folder: Path, tensors: dict[str, torch.Tensor], stem: str, kind: str) -> None:
    names = sorted(tensors)
    halves = {1: names[: len(names) // 2], 2: names[len(names) // 2 :]}
    index = {}
    for number, half in halves.items():
        file = f"{stem}-0000{number}-of-00002.{kind}"
        content = {name: tensors[name].contiguous() for name in half}
        if kind == "bin":
            torch.save(content, folder / file)
        else:
            save_file(content, folder / file)
        index |= dict.fromkeys(half, file)
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def adapter(folder: Path) -> None:
    """A LoRA adapter."""
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": r".*\.(q|v)_proj",
        "rank_pattern": {"layers.1.self_attn.q_proj": 2},
        "alpha_pattern": {r"layers\.\d+\.self_attn\.v_proj": 1},
        "modules_to_save": ["score"],
        "layers_to_transform": [0, 1],
        "layers_pattern": ["layers"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    hidden = 64
    modules = [f"base_model.model.model.layers.{layer}.self_attn.{part}_proj" for layer in (0, 1) for part in "qv"]
    halves = {"lora_A": torch.ones(2, hidden), "lora_B": torch.ones(hidden, 2)}
    tensors = {f"{module}.{half}.weight": tensor.clone() for module in modules for half, tensor in halves.items()}
    tensors["base_model.model.score.weight"] = torch.ones(1, hidden)
    save_file(tensors, folder / "adapter_model.safetensors")


def copied(*parts: str) -> Callable[[Path], object]:
    """Copies a golden folder."""
    return lambda folder: shutil.copytree(GOLDEN.joinpath(*parts), folder, dirs_exist_ok=True)


KINDS: dict[str, tuple[Callable[[Path], object], Load, int]] = {
    "a classifier": (classifier, lambda folder: (file_hashes(folder), load_classifier(folder, "float32")), 60),
    "the config of a classifier": (config, read_classifier_config, 200),
    "an InternLM2": (internlm2, lambda folder: (file_hashes(folder), load_internlm2_reward(folder, "float32")), 80),
    "an adapter": (adapter, lambda folder: _asked(Adapter.read(folder)), 300),
    "a chat tokenizer": (copied("heads", "tok_qwen2"), lambda folder: ChatTokenizer(folder).encode_batch(["a"]), 60),
    "a text tokenizer": (
        copied("polar", "polar_tiny_a"),
        lambda folder: load_internlm2_tokens(folder).tokenizer.encode_text("a b c"),
        80,
    ),
}


def _asked(read: Adapter) -> None:
    for module in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "score"):
        read.config.targets(module)
        read.config.scale_of(module)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_checkpoint_is_one_sentence(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make, load, cases = KINDS[kind]
    whole = tmp_path / "whole"
    whole.mkdir()
    make(whole)
    files = sorted(path.name for path in whole.iterdir() if path.suffix not in (".md", ".jinja"))
    load(whole)
    folder = tmp_path / "damaged"
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    refused = 0

    def check(chance: Random) -> None:
        nonlocal refused
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        path = folder / chance.choice(files)
        if path.suffix == ".json" and chance.random() < 0.7:
            path.write_text(json.dumps(replaced(chance, json.loads(path.read_bytes()))))
        else:
            path.write_bytes(damaged(chance, path.read_bytes()))
        try:
            load(folder)
        except (CheckpointError, TokenizerError):
            refused += 1

    try:
        fuzz(kind, cases, check)
    finally:
        logging.set_verbosity(verbosity)
        # The tokenizers library and torch print what they think of such files.
        capfd.readouterr()
    assert refused > cases // 10
