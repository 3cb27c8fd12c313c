"""Law 5: the engine gives what one plain unpadded forward of transformers per candidate gives.

The plain side is written here with nothing of polar_ray: transformers' own classifier classes, batches of one, no
padding, no cache, eager attention, float32. An InternLM2 checkpoint is put into Llama's classifier by this file's own
reading of its tensors.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from polar_ray.engine.engine import Engine
from polar_ray.models.classifier import load_classifier
from polar_ray.models.internlm2 import load_internlm2_reward

torch.set_num_threads(1)
GOLDEN = Path(__file__).parents[1] / "golden"
INTERNLM2 = {
    "polar_a": GOLDEN / "polar" / "polar_tiny_a",
    "polar_b": GOLDEN / "polar" / "polar_tiny_b",
    "internlm2": GOLDEN / "polar" / "internlm2_reward_tiny",
}
CLASSIFIERS = {name: GOLDEN / "heads" / f"ckpt_{name}_seqcls" for name in ("llama", "qwen2", "gemma2", "gpt2")}
NAMES = [*INTERNLM2, *CLASSIFIERS]
TOLERANCE = 1e-4


@cache
def plain_model(name: str) -> torch.nn.Module:
    if name in CLASSIFIERS:
        model = AutoModelForSequenceClassification.from_pretrained(
            CLASSIFIERS[name], attn_implementation="eager", dtype=torch.float32
        )
    else:
        model = llama_of(INTERNLM2[name])
    # With a pad id, transformers reads the last token that is not it, which may be an earlier one.
    model.config.pad_token_id = None
    return model.eval()


def llama_of(folder: Path) -> LlamaForSequenceClassification:
    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads, hidden = config["num_attention_heads"], config["num_key_value_heads"], config["hidden_size"]
    head_dim = hidden // heads
    llama = LlamaConfig(
        vocab_size=config["vocab_size"],
        hidden_size=hidden,
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
        rms_norm_eps=config["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": float(config["rope_theta"])},
        num_labels=1,
        pad_token_id=None,
        attn_implementation="eager",
    )
    files = sorted(folder.glob("*.safetensors"))
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    mapped = {
        "model.embed_tokens.weight": tensors["model.tok_embeddings.weight"],
        "model.norm.weight": tensors["model.norm.weight"],
        "score.weight": tensors["v_head.weight"],
    }
    for layer in range(config["num_hidden_layers"]):
        theirs, ours = f"model.layers.{layer}.", f"model.layers.{layer}."
        rows = tensors[f"{theirs}attention.wqkv.weight"].split(head_dim)
        per_group = heads // kv_heads + 2
        parts: dict[str, list[torch.Tensor]] = {"q": [], "k": [], "v": []}
        for number, head in enumerate(rows):
            place = number % per_group
            parts["k" if place == per_group - 2 else "v" if place == per_group - 1 else "q"].append(head)
        for part, chosen in parts.items():
            mapped[f"{ours}self_attn.{part}_proj.weight"] = torch.cat(chosen)
        for target, source in {
            "self_attn.o_proj": "attention.wo",
            "mlp.gate_proj": "feed_forward.w1",
            "mlp.up_proj": "feed_forward.w3",
            "mlp.down_proj": "feed_forward.w2",
            "input_layernorm": "attention_norm",
            "post_attention_layernorm": "ffn_norm",
        }.items():
            mapped[f"{ours}{target}.weight"] = tensors[f"{theirs}{source}.weight"]
    model = LlamaForSequenceClassification(llama)
    model.load_state_dict(mapped, strict=True)
    return model


@cache
def engine(name: str) -> Engine:
    load = load_classifier if name in CLASSIFIERS else load_internlm2_reward
    folder = CLASSIFIERS[name] if name in CLASSIFIERS else INTERNLM2[name]
    return Engine(load(folder, "float32"), device="cpu", dtype="float32")


@torch.inference_mode()
def plain_rewards(name: str, sequences: list[np.ndarray]) -> np.ndarray:
    model = plain_model(name)
    ids = [torch.from_numpy(sequence.astype(np.int64))[None] for sequence in sequences]
    return np.array([model(input_ids=row, use_cache=False).logits[0, 0].item() for row in ids])


def random_groups(name: str, seed: int, shapes: list[tuple[int, list[int]]]) -> list[np.ndarray]:
    """Sequences of groups: for each (prefix length, own lengths), candidates that share a prefix."""
    rng = np.random.default_rng(seed)
    vocabulary = engine(name).vocab_size
    sequences = []
    for prefix_length, own_lengths in shapes:
        prefix = rng.integers(0, vocabulary, prefix_length)
        sequences += [np.concatenate([prefix, rng.integers(0, vocabulary, own)]) for own in own_lengths]
    return [sequence.astype(np.int32) for sequence in sequences]


SHAPES = st.lists(st.tuples(st.integers(0, 40), st.lists(st.integers(1, 30), min_size=1, max_size=5)), max_size=5)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=8)
@given(shapes=SHAPES, seed=st.integers(0, 1000), budget=st.sampled_from([16, 128, 4096]))
def test_the_engine_gives_the_plain_rewards(
    name: str, shapes: list[tuple[int, list[int]]], seed: int, budget: int
) -> None:
    sequences = random_groups(name, seed, shapes)
    engine(name).token_budget = budget
    rewards = engine(name).score(sequences)[:, 0]
    np.testing.assert_allclose(rewards, plain_rewards(name, sequences), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_long_shared_prefix_gives_the_plain_rewards(name: str) -> None:
    half = min(300, engine(name).max_positions // 2)
    sequences = random_groups(name, 7, [(half, [1, 2, 60]), (1, [1]), (half, [half, 3])])
    engine(name).token_budget = 700
    rewards = engine(name).score(sequences)[:, 0]
    np.testing.assert_allclose(rewards, plain_rewards(name, sequences), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_sequence_several_times_has_one_reward(name: str) -> None:
    sequences = random_groups(name, 3, [(20, [5, 9])])
    repeated = [sequences[0], sequences[1], sequences[0], sequences[0]]
    engine(name).token_budget = 4096
    rewards = engine(name).score(repeated)[:, 0]
    np.testing.assert_allclose(rewards, plain_rewards(name, repeated), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", list(INTERNLM2))
def test_the_plain_side_gives_what_the_original_code_gave(name: str) -> None:
    cases = json.loads((INTERNLM2[name] / "expected.json").read_text())["single"]
    sequences = [np.array(case["input_ids"], np.int32) for case in cases]
    expected = [case["reward"] for case in cases]
    np.testing.assert_allclose(plain_rewards(name, sequences), expected, atol=TOLERANCE, rtol=0)
