import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from polar_ray.engine.engine import Engine
from polar_ray.errors import CheckpointError
from polar_ray.models.classifier import load_classifier
from polar_ray.models.classifier_config import FAMILIES, max_positions, read_classifier_config
from polar_ray.models.loaded import exact_attention

GOLDEN = Path(__file__).parents[1] / "golden" / "heads"
HEADS = json.loads((GOLDEN / "heads.json").read_text(encoding="utf-8"))
LLAMA = GOLDEN / "ckpt_llama_seqcls"

SMALL = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "num_labels": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
OF_FAMILY = {
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 8},
    "glm4": {"head_dim": 8},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "mistral": {"sliding_window": 8},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3": {"head_dim": 8},
    "qwen3_moe": {**EXPERTS, "head_dim": 8},
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def changed(folder, *, config=None, without=(), tensors=None, source=LLAMA):
    """A copy of a checkpoint with another config or other tensors."""
    folder.mkdir()
    content = json.loads((source / "config.json").read_text())
    content = {key: value for key, value in content.items() if key not in without} | (config or {})
    (folder / "config.json").write_text(json.dumps(content))
    if tensors is None:
        shutil.copyfile(source / "model.safetensors", folder / "model.safetensors")
    else:
        save_file(tensors, folder / "model.safetensors")
    return folder


def llama_tensors():
    return load_file(LLAMA / "model.safetensors")


def engine_of(folder, dtype="float32", token_budget=None):
    return Engine(load_classifier(folder, dtype), device="cpu", dtype=dtype, token_budget=token_budget)


def sequences(ids):
    return [np.array(row, np.int32) for row in ids]


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_each_family_gives_what_its_own_class_gives_for_one_unpadded_sequence(model_type, tmp_path):
    if model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        pytest.skip(f"this version of transformers has no {FAMILIES[model_type]}")
    config = CONFIG_MAPPING[model_type].from_dict(SMALL | OF_FAMILY.get(model_type, {}))
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    native = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    assert type(native).__name__ == FAMILIES[model_type]
    for parameter in native.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    native.save_pretrained(tmp_path)
    generator = np.random.default_rng(0)
    rows = [generator.integers(3, 120, length).astype(np.int32) for length in (5, 40, 17, 1, 40)]
    with torch.inference_mode():
        expected = [native(input_ids=torch.tensor(row[None], dtype=torch.long)).logits[0, 0].item() for row in rows]
    assert len(set(expected)) > 3
    np.testing.assert_allclose(engine_of(tmp_path).score(rows)[:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
@pytest.mark.parametrize("token_budget", [1, 60, 150, None])
def test_golden_rewards_hold_whatever_the_sequences_are_batched_with(family, token_budget):
    engine = engine_of(GOLDEN / f"ckpt_{family}_seqcls", token_budget=token_budget)
    golden = HEADS[family]
    for order in (range(6), range(5, -1, -1), (2, 5, 2, 0)):
        rewards = engine.score(sequences(golden["input_ids"][row] for row in order))
        np.testing.assert_allclose(rewards[:, 0], [golden["score_single"][row] for row in order], atol=1e-4)


def test_a_model_with_learned_positions_gives_the_golden_rewards_in_any_batch():
    engine = engine_of(GOLDEN / "ckpt_gpt2_seqcls")
    golden = HEADS["gpt2"]
    rewards = engine.score(sequences(golden["rows"]))[:, 0]
    np.testing.assert_allclose(rewards, golden["single"], atol=1e-4)
    assert not np.allclose(rewards, golden["left+mask(no position_ids)"], atol=1e-2)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_reward_is_read_at_the_last_token_even_where_padding_equals_eos(family, tmp_path):
    folder = changed(tmp_path / "m", source=GOLDEN / f"ckpt_{family}_seqcls", config={"pad_token_id": 4})
    golden = HEADS[family]
    rewards = engine_of(folder).score(sequences(golden["input_ids"]))[:, 0]
    np.testing.assert_allclose(rewards, golden["score_single"], atol=1e-4)
    # What transformers itself gives here: the token before EOS (5.x), the end of the prompt (4.45).
    assert not np.allclose(rewards, golden["score_single_pad=eos"], atol=1e-2)
    assert not np.allclose(rewards, golden["score_single_pad=eos_transformers_4.45.2"], atol=1e-2)


def test_no_pad_token_is_needed_to_score_a_batch(tmp_path):
    folder = changed(tmp_path / "m", config={"pad_token_id": None})
    rewards = engine_of(folder).score(sequences(HEADS["llama"]["input_ids"]))[:, 0]
    np.testing.assert_allclose(rewards, HEADS["llama"]["score_single"], atol=1e-4)


def test_padding_is_never_seen():
    rewards = engine_of(LLAMA).score(sequences(HEADS["llama"]["input_ids"]))[:, 0]
    assert not np.allclose(rewards, HEADS["llama"]["score_batch_left_pad=distinct_no_mask"], atol=1e-2)


def test_gemma2_runs_the_attention_that_caps_its_scores():
    model = load_classifier(GOLDEN / "ckpt_gemma2_seqcls", "float32")
    assert model.backbone.config._attn_implementation == "eager"
    engine = Engine(model, device="cpu", dtype="float32")
    rewards = engine.score(sequences(HEADS["gemma2"]["input_ids"]))[:, 0]
    without_cap = HEADS["gemma2"]["score_single_sdpa_transformers_4.45.2"]
    assert np.abs(rewards - without_cap).max() > 1e-3


def test_a_family_without_a_cap_runs_sdpa():
    config = CONFIG_MAPPING["llama"].from_dict(SMALL)
    assert exact_attention(config) == "sdpa"


def test_the_dtype_is_the_one_asked_for_and_not_the_files(tmp_path):
    halves = {name: tensor.bfloat16() for name, tensor in llama_tensors().items()}
    folder = changed(tmp_path / "m", config={"torch_dtype": "bfloat16"}, tensors=halves)
    assert {p.dtype for p in load_classifier(folder, "float32").backbone.parameters()} == {torch.float32}
    assert {p.dtype for p in load_classifier(LLAMA, "bfloat16").backbone.parameters()} == {torch.bfloat16}


def test_bfloat16_comes_close_to_the_golden_bfloat16_rewards():
    rewards = engine_of(LLAMA, "bfloat16").score(sequences(HEADS["llama"]["input_ids"]))[:, 0]
    np.testing.assert_allclose(rewards, HEADS["llama"]["score_single_bf16"], atol=0.05)


def test_the_head_keeps_its_float32_weights_whatever_the_dtype():
    head = load_classifier(LLAMA, "bfloat16").head
    assert head.weight.dtype == torch.float32
    assert torch.equal(head.weight, llama_tensors()["score.weight"])


def test_dropout_is_off(tmp_path):
    busy = {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}
    folder = changed(tmp_path / "m", source=GOLDEN / "ckpt_gpt2_seqcls", config=busy)
    model = load_classifier(folder, "float32")
    assert not any(module.training for module in model.backbone.modules())
    rewards = Engine(model, device="cpu", dtype="float32").score(sequences(HEADS["gpt2"]["rows"]))[:, 0]
    np.testing.assert_allclose(rewards, HEADS["gpt2"]["single"], atol=1e-4)


def test_weights_in_a_bin_file_and_in_shards_are_read_too(tmp_path):
    tensors = llama_tensors()
    whole = changed(tmp_path / "bin", tensors={})
    (whole / "model.safetensors").unlink()
    torch.save(tensors, whole / "pytorch_model.bin")
    old = changed(tmp_path / "old", tensors={})
    (old / "model.safetensors").unlink()
    torch.save(tensors, old / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    sharded = changed(tmp_path / "shards", tensors={})
    (sharded / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:10], names[10:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, sharded / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    for folder in (whole, old, sharded):
        rewards = engine_of(folder).score(sequences(HEADS["llama"]["input_ids"]))[:, 0]
        np.testing.assert_allclose(rewards, HEADS["llama"]["score_single"], atol=1e-4)


def test_a_checkpoint_without_its_head_is_refused(tmp_path):
    tensors = llama_tensors()
    del tensors["score.weight"]
    with pytest.raises(CheckpointError, match=r"no score\.weight"):
        load_classifier(changed(tmp_path / "m", tensors=tensors), "float32")


def test_a_head_under_another_name_is_refused_with_a_hint(tmp_path):
    tensors = llama_tensors()
    tensors["v_head.weight"] = tensors.pop("score.weight")
    with pytest.raises(CheckpointError, match=r"no score\.weight.*v_head\.\*: They are a value head"):
        load_classifier(changed(tmp_path / "m", tensors=tensors), "float32")


def test_a_missing_tensor_is_named(tmp_path):
    tensors = llama_tensors()
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing \(model\.layers\.1\.mlp\.up_proj\.weight\)"):
        load_classifier(changed(tmp_path / "m", tensors=tensors), "float32")


def test_an_unexpected_tensor_is_named(tmp_path):
    tensors = llama_tensors() | {"score.bias": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 unexpected \(score\.bias\)"):
        load_classifier(changed(tmp_path / "m", tensors=tensors), "float32")


def test_the_gate_of_a_urm_is_not_dropped_in_silence(tmp_path):
    tensors = llama_tensors() | {"weights.fc.0.weight": torch.zeros(64, 64), "weights.fc.0.bias": torch.zeros(64)}
    with pytest.raises(CheckpointError, match=r"2 unexpected \(weights\.fc\.0\.bias.*gate of a URM"):
        load_classifier(changed(tmp_path / "m", tensors=tensors), "float32")


def test_a_tensor_of_another_shape_is_named(tmp_path):
    tensors = llama_tensors() | {"model.norm.weight": torch.ones(32)}
    with pytest.raises(CheckpointError, match=r"1 of another shape \(model\.norm\.weight\)"):
        load_classifier(changed(tmp_path / "m", tensors=tensors), "float32")


def test_a_head_of_another_shape_is_refused(tmp_path):
    tensors = llama_tensors() | {"score.weight": torch.ones(2, 64)}
    with pytest.raises(CheckpointError, match=r"score\.weight"):
        load_classifier(changed(tmp_path / "m", tensors=tensors), "float32")


def test_a_damaged_file_is_refused(tmp_path):
    folder = changed(tmp_path / "m")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_classifier(folder, "float32")


SIZES = ["num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size", "num_key_value_heads"]


@pytest.mark.parametrize("size", [10_000_000, 2**40])
@pytest.mark.parametrize("name", SIZES)
def test_a_config_larger_than_its_weights_is_refused_before_anything_is_made(name, size, tmp_path):
    folder = changed(tmp_path / "model", config={name: size, "head_dim": 16})
    with forbidden_weights(), pytest.raises(CheckpointError) as refused:
        load_classifier(folder, "float32")
    assert "\n" not in str(refused.value)
    assert f"{folder}" in str(refused.value)


def test_experts_are_no_more_than_the_weights_can_be_of(tmp_path):
    config = CONFIG_MAPPING["mixtral"](**SMALL, num_local_experts=4)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "mixtral")
    load_classifier(tmp_path / "mixtral", "float32")
    path = tmp_path / "mixtral" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_local_experts": 10_000_000}))
    with forbidden_weights(), pytest.raises(CheckpointError, match="has num_local_experts 10,000,000, but the weights"):
        load_classifier(tmp_path / "mixtral", "float32")


def test_a_tensor_in_a_bin_file_that_repeats_itself_is_as_large_as_its_bytes(tmp_path):
    tensors = llama_tensors()
    tensors["model.embed_tokens.weight"] = torch.zeros(1, 1).expand(10_000_000, 64)
    folder = changed(tmp_path / "model", config={"vocab_size": 10_000_000})
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with forbidden_weights(), pytest.raises(CheckpointError, match="describes a model of 640,067,968 numbers, but the"):
        load_classifier(folder, "float32")


class Loaded(Exception):
    """The weights were loaded after all."""


@contextmanager
def forbidden_weights():
    def load(*_args, **_options):
        raise Loaded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AutoModelForSequenceClassification, "from_pretrained", load)
        yield


def test_several_labels_are_refused(tmp_path):
    labels = {str(number): f"LABEL_{number}" for number in range(10)}
    with pytest.raises(CheckpointError, match="10 labels"):
        read_classifier_config(changed(tmp_path / "m", config={"id2label": labels}))


def test_a_config_that_does_not_say_how_many_labels_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match='add "num_labels": 1'):
        read_classifier_config(changed(tmp_path / "m", without=("id2label", "label2id")))


def test_a_config_without_a_limit_of_positions_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no max_position_embeddings"):
        read_classifier_config(changed(tmp_path / "m", without=("max_position_embeddings",)))


def test_num_labels_alone_is_enough(tmp_path):
    folder = changed(tmp_path / "m", config={"num_labels": 1}, without=("id2label", "label2id"))
    rewards = engine_of(folder).score(sequences(HEADS["llama"]["input_ids"]))[:, 0]
    np.testing.assert_allclose(rewards, HEADS["llama"]["score_single"], atol=1e-4)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "without a reward head"),
        ({"architectures": ["LlamaModel"]}, "without a reward head"),
        ({"architectures": ["LlamaForSequenceClassificationWithNormal_Weights"]}, "URM, which is not supported yet"),
        ({"architectures": ["LlamaForRewardModelWithGating"]}, "ArmoRM"),
        ({"architectures": ["INFORMForSequenceClassification"]}, "INF-ORM"),
        ({"architectures": ["InternLM2ForRewardModel"], "model_type": "internlm2"}, "internlm2_reward, or polar"),
        ({"architectures": ["LlamaForMyReward"]}, "code in a checkpoint is never run"),
        (
            {"architectures": ["BertForSequenceClassification"], "model_type": "bert"},
            "encoder without causal attention",
        ),
        ({"architectures": ["SomethingNew"], "model_type": "something_new"}, "It knows: gemma, gemma2"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantized"),
        ({"use_bidirectional_attention": True}, "causal attention off"),
        ({"is_causal": False}, "causal attention off"),
    ],
)
def test_a_model_that_this_scorer_cannot_read_is_refused_with_the_reason(config, words, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        load_classifier(changed(tmp_path / "m", config=config), "float32")


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    folder = changed(
        tmp_path / "m",
        config={
            "auto_map": {
                "AutoConfig": "trap.TrapConfig",
                "AutoModelForSequenceClassification": "trap.TrapForSequenceClassification",
            }
        },
    )
    (folder / "trap.py").write_text("raise SystemExit('the checkpoint ran its code')\n")
    rewards = engine_of(folder).score(sequences(HEADS["llama"]["input_ids"]))[:, 0]
    np.testing.assert_allclose(rewards, HEADS["llama"]["score_single"], atol=1e-4)


def test_the_models_limit_is_that_of_its_positions():
    assert load_classifier(LLAMA, "float32").max_positions == 1024
    assert load_classifier(GOLDEN / "ckpt_gpt2_seqcls", "float32").max_positions == 256


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": {"type": "su"}, "original_max_position_embeddings": 4096},
        {"rope_scaling": {"rope_type": "longrope"}, "original_max_position_embeddings": 4096},
        {"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 4096}},
    ],
)
def test_longrope_is_limited_to_its_original_context(rope):
    assert max_positions({"model_type": "phi3", "max_position_embeddings": 131072, **rope}) == 4096


def test_other_rope_scalings_keep_the_models_limit():
    llama3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
    config = {"model_type": "llama", "max_position_embeddings": 131072, "rope_scaling": llama3}
    assert max_positions(config) == 131072
