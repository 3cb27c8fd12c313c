"""LoRA adapters merged into reward models, held to PEFT's own unmerged forwards and to a product written out."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from polar_ray.engine.engine import Engine
from polar_ray.errors import CheckpointError
from polar_ray.models.adapter import Adapter
from polar_ray.models.adapter_config import AdapterConfig
from polar_ray.models.classifier import load_classifier
from polar_ray.models.internlm2 import load_internlm2_reward
from polar_ray.models.loaded import LoadedModel

torch.set_num_threads(1)
# PEFT asks transformers for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
GOLDEN = Path(__file__).parents[1] / "golden"
# Its heads are grouped and its names are POLAR's.
POLAR = GOLDEN / "polar" / "internlm2_reward_tiny"
RNG = np.random.default_rng(0)
SEQUENCES = [RNG.integers(10, 400, length).astype(np.int32) for length in (5, 40, 17, 2)]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def rewards_of(model: LoadedModel, sequences: list[np.ndarray] = SEQUENCES) -> np.ndarray:
    rewards: np.ndarray = Engine(model, device="cpu", dtype="float32").score(sequences)[:, 0]
    return rewards


def trained(model: Any, folder: Path, **settings: Any) -> list[float]:
    """Saves an adapter with random matrices, as PEFT saves one, and returns PEFT's unmerged rewards."""
    torch.manual_seed(1)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**{"task_type": "SEQ_CLS"} | settings)).eval()
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(folder)
    with torch.inference_mode():
        return [adapted(input_ids=torch.tensor(ids[None]).long()).logits[0, 0].item() for ids in SEQUENCES]


def classifier(family: str) -> Any:
    return transformers.AutoModelForSequenceClassification.from_pretrained(
        GOLDEN / "heads" / f"ckpt_{family}_seqcls", dtype=torch.float32
    )


SETTINGS: dict[str, dict[str, Any]] = {
    "attention": {"r": 4, "lora_alpha": 6, "target_modules": ATTENTION},
    "all": {"r": 3, "lora_alpha": 5, "target_modules": "all-linear"},
    "rslora": {"r": 4, "lora_alpha": 6, "target_modules": ATTENTION, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": r".*\.(self_attn\.[qv]|mlp\.down)_proj",
        "rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 5},
        "alpha_pattern": {r"layers\.\d+\.self_attn\.v_proj": 1},
    },
    "one layer": {"r": 4, "target_modules": ATTENTION, "layers_to_transform": [1]},
    "norm saved": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["score", "norm"]},
    "head updated": {"r": 1, "target_modules": ["q_proj", "score"], "task_type": None},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_merged_classifier_gives_the_rewards_of_pefts_unmerged_forward(
    family: str, settings: str, tmp_path: Path
) -> None:
    expected = trained(classifier(family), tmp_path, **SETTINGS[settings])
    folder = GOLDEN / "heads" / f"ckpt_{family}_seqcls"
    rewards = rewards_of(load_classifier(folder, "float32", Adapter.read(tmp_path)))
    np.testing.assert_allclose(rewards, expected, atol=1e-4, rtol=0)
    assert np.abs(rewards - rewards_of(load_classifier(folder, "float32"))).max() > 0.1


def test_weights_that_lie_the_other_way_round_are_merged_that_way(tmp_path: Path) -> None:
    # GPT-2; PEFT is told fan_in_fan_out by the module's class whatever the setting says.
    with pytest.warns(UserWarning, match="fan_in_fan_out is set to False"):
        expected = trained(classifier("gpt2"), tmp_path, r=4, target_modules=["c_attn", "c_fc"])
    rewards = rewards_of(load_classifier(GOLDEN / "heads" / "ckpt_gpt2_seqcls", "float32", Adapter.read(tmp_path)))
    np.testing.assert_allclose(rewards, expected, atol=1e-4, rtol=0)


def test_a_language_model_becomes_a_reward_model_by_an_adapter_that_brings_the_head(tmp_path: Path) -> None:
    # As TRL's RewardTrainer leaves it: the base has an lm_head and no score head.
    config = transformers.Qwen2Config.from_dict(
        json.loads((GOLDEN / "heads" / "ckpt_qwen2_seqcls" / "config.json").read_text())
        | {"tie_word_embeddings": False}
    )
    config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    torch.manual_seed(0)
    language = transformers.Qwen2ForCausalLM(config)
    for parameter in language.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    language.save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    expected = trained(base, tmp_path / "adapter", r=4, target_modules=ATTENTION)
    with pytest.raises(CheckpointError, match=r"without a reward head\..* give its folder as adapter"):
        load_classifier(tmp_path / "base", "float32")
    adapter = Adapter.read(tmp_path / "adapter")
    model = load_classifier(tmp_path / "base", "float32", adapter)
    assert adapter.saved.keys() == {"score.weight"}
    assert torch.equal(model.head.weight, adapter.saved["score.weight"])
    np.testing.assert_allclose(rewards_of(model), expected, atol=1e-4, rtol=0)


def write_adapter(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    """Writes an adapter's two files as PEFT names them."""
    folder.mkdir(exist_ok=True)
    content = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["wqkv", "wo", "w1", "w2", "w3"]}
    (folder / "adapter_config.json").write_text(json.dumps(content | config))
    save_file(
        {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}, folder / "adapter_model.safetensors"
    )
    return folder


def random_update(parts: tuple[str, ...] = ("wqkv", "wo", "w1", "w2", "w3")) -> dict[str, torch.Tensor]:
    """Returns an adapter's random matrices for these parts of each layer of POLAR, and a head."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, weight in load_file(POLAR / "model.safetensors").items():
        if name.split(".")[-2] in parts:
            module = name.removesuffix(".weight")
            tensors[f"{module}.lora_A.weight"] = torch.randn(3, weight.shape[1], generator=generator) * 0.3
            tensors[f"{module}.lora_B.weight"] = torch.randn(weight.shape[0], 3, generator=generator) * 0.3
    return tensors


def test_an_adapter_of_polar_is_added_to_the_original_matrices_the_joint_one_included(tmp_path: Path) -> None:
    update = random_update()
    tensors = load_file(POLAR / "model.safetensors")
    head = torch.linspace(-1, 1, tensors["v_head.weight"].numel()).view_as(tensors["v_head.weight"]).clone()
    by_hand = Path(shutil.copytree(POLAR, tmp_path / "by_hand"))
    for name in tensors:
        if (a := update.get(name.replace(".weight", ".lora_A.weight"))) is not None:
            b = update[name.replace(".weight", ".lora_B.weight")]
            tensors[name] = (tensors[name].double() + 6 / 3 * b.double() @ a.double()).float()
    save_file(tensors | {"v_head.weight": head}, by_hand / "model.safetensors")
    folder = write_adapter(tmp_path / "a", update | {"v_head.weight": head}, modules_to_save=["v_head"])
    rewards = rewards_of(load_internlm2_reward(POLAR, "float32", Adapter.read(folder)))
    np.testing.assert_allclose(rewards, rewards_of(load_internlm2_reward(by_hand, "float32")), atol=1e-4, rtol=0)
    assert np.abs(rewards - rewards_of(load_internlm2_reward(POLAR, "float32"))).max() > 0.1


def test_a_merged_weight_is_rounded_once_and_from_float32(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", random_update(("wo",)), target_modules=["wo"])
    adapter = Adapter.read(folder)
    name = "model.layers.0.attention.wo"
    weight = load_file(POLAR / "model.safetensors")[f"{name}.weight"]
    a, b = (
        load_file(folder / "adapter_model.safetensors")[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB"
    )
    expected = (weight.float() + 2.0 * (b @ a)).bfloat16()
    loaded = load_internlm2_reward(POLAR, "bfloat16", adapter).backbone.layers[0].self_attn.o_proj.weight
    assert torch.equal(loaded, expected)
    # An update of a bfloat16 weight in bfloat16 would be another.
    assert not torch.equal(loaded, weight.bfloat16() + (2.0 * (b @ a)).bfloat16())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "is a DoRA"),
        ({"peft_type": "IA3"}, "of the kind IA3; only LORA"),
        ({"bias": "all"}, "trained biases"),
        ({"init_lora_weights": "pissa"}, "started by pissa, which changes the weights"),
        ({"lora_bias": True}, "has lora_bias: True, which is not supported"),
        ({"layer_replication": [[0, 2]]}, "has layer_replication"),
        ({"something_new": 3}, "has something_new: 3"),
        ({"r": 4}, r"should have rank 4 at model\.layers\.0"),
        ({"target_modules": ["wo"]}, r"does not speak of.*w1\.lora_A"),
        ({"target_modules": ["wqkv", "wo", "w1", "w2", "w3", "tok_embeddings"]}, r"lacks tensors.*tok_embeddings"),
        ({"modules_to_save": ["v_head"]}, r"lacks tensors.*v_head\.weight"),
    ],
)
def test_an_adapter_that_cannot_be_merged_exactly_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "a", random_update(), **changes)
    with pytest.raises(CheckpointError, match=message):
        load_internlm2_reward(POLAR, "float32", Adapter.read(folder))


def test_an_adapter_with_a_matrix_missing_is_refused(tmp_path: Path) -> None:
    update = random_update()
    del update["model.layers.1.attention.wo.lora_B.weight"]
    with pytest.raises(CheckpointError, match=r"half an update only of model\.layers\.1\.attention\.wo"):
        Adapter.read(write_adapter(tmp_path / "a", update))
    del update["model.layers.1.attention.wo.lora_A.weight"]
    with pytest.raises(CheckpointError, match=r"lacks tensors.*model\.layers\.1\.attention\.wo"):
        load_internlm2_reward(POLAR, "float32", Adapter.read(write_adapter(tmp_path / "a", update)))


def test_an_adapter_of_another_model_is_refused_with_the_model_that_it_was_trained_on(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", random_update(), base_model_name_or_path="internlm/POLAR-7B")
    other = GOLDEN / "polar" / "polar_tiny_b"
    with pytest.raises(CheckpointError, match=r"does not belong to this model.*trained on internlm/POLAR-7B"):
        load_internlm2_reward(other, "float32", Adapter.read(folder))
    update = {
        name.replace("attention.wo.", "self_attn.o_proj."): tensor for name, tensor in random_update(("wo",)).items()
    }
    folder = write_adapter(tmp_path / "b", update, target_modules=["o_proj"])
    with pytest.raises(CheckpointError, match=r"self_attn\.o_proj\.weight.*which the model does not have"):
        load_internlm2_reward(POLAR, "float32", Adapter.read(folder))


def test_a_model_of_another_name_is_said_and_another_folder_is_not(tmp_path: Path) -> None:
    config = AdapterConfig.read(write_adapter(tmp_path / "a", {}, base_model_name_or_path="/mnt/x/POLAR-7B"))
    assert config.differs_from("internlm/POLAR-7B") is None
    assert config.differs_from("/models/polar-7b") is None
    assert "was trained on /mnt/x/POLAR-7B, but model is internlm/POLAR-1_8B" in str(
        config.differs_from("internlm/POLAR-1_8B")
    )


def test_a_folder_with_a_model_and_an_adapter_config_is_refused(tmp_path: Path) -> None:
    # With PEFT installed, transformers would apply the adapter without a word.
    folder = Path(shutil.copytree(GOLDEN / "heads" / "ckpt_qwen2_seqcls", tmp_path / "both"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds a model and an adapter_config\.json too"):
        load_classifier(folder, "float32")


def test_an_adapter_given_as_the_model_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", random_update())
    with pytest.raises(CheckpointError, match="holds an adapter and not a model"):
        load_internlm2_reward(folder, "float32")
