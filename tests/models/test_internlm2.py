"""InternLM2 reward checkpoints as transformers' Llama."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from polar_ray.engine.engine import Engine
from polar_ray.errors import CheckpointError
from polar_ray.models.internlm2 import load_internlm2_reward

torch.set_num_threads(1)
GOLDEN = Path(__file__).parents[1] / "golden" / "polar"
CHECKPOINTS = ["polar_tiny_a", "polar_tiny_b", "internlm2_reward_tiny"]
SHARED_NTK = Path(__file__).parents[2] / "../shared/golden/polar/polar_tiny_dynamic_ntk"


def expected(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / name / "expected.json").read_text())
    return content


def ids_of(case: dict[str, Any]) -> np.ndarray:
    return np.array(case["input_ids"], np.int32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "polar_tiny_b", tmp_path / "model"))


def change_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors")


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_sequence_alone_gets_the_original_reward(name: str) -> None:
    engine = Engine(load_internlm2_reward(GOLDEN / name, "float32"), device="cpu", dtype="float32")
    for case in expected(name)["single"]:
        assert engine.score([ids_of(case)])[0, 0] == pytest.approx(case["reward"], abs=1e-4)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_sequence_in_company_gets_the_original_reward(name: str) -> None:
    engine = Engine(load_internlm2_reward(GOLDEN / name, "float32"), device="cpu", dtype="float32")
    content = expected(name)
    for batch in content["batches"]:
        sequences = [ids_of(content["single"][position]) for position in batch["seq_index"]]
        np.testing.assert_allclose(engine.score(sequences)[:, 0], batch["rewards"], atol=1e-4, rtol=0)


def test_the_dtype_is_the_one_asked_for_and_the_head_is_float32(folder: Path) -> None:
    # T8: transformers 5 would take the dtype of the file, which is bfloat16 here.
    assert load_file(folder / "model.safetensors")["v_head.weight"].dtype == torch.bfloat16
    for dtype, torch_dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        model = load_internlm2_reward(folder, dtype)  # type: ignore[arg-type]
        assert {parameter.dtype for parameter in model.backbone.parameters()} == {torch_dtype}
        assert model.head.weight.dtype == torch.float32


def test_nothing_of_the_model_is_in_training_mode(folder: Path) -> None:
    # T25: dropout left on makes rewards random.
    model = load_internlm2_reward(folder, "float32")
    assert not any(module.training for module in model.backbone.modules())
    assert model.backbone.config.attention_dropout == 0.0


def test_a_missing_head_is_refused(folder: Path) -> None:
    # T9: a head that is left out must not be made up.
    change_tensors(folder, v_head__weight=None)
    with pytest.raises(CheckpointError, match=r"missing: v_head\.weight"):
        load_internlm2_reward(folder, "float32")


def test_a_head_under_another_name_is_refused(folder: Path) -> None:
    change_tensors(folder, v_head__weight=None, score__weight=torch.zeros(1, 48))
    with pytest.raises(CheckpointError, match=r"missing: v_head\.weight; unexpected: score\.weight"):
        load_internlm2_reward(folder, "float32")


def test_an_unexpected_tensor_is_refused(folder: Path) -> None:
    change_tensors(folder, output__weight=torch.zeros(1000, 48))
    with pytest.raises(CheckpointError, match=r"unexpected: output\.weight"):
        load_internlm2_reward(folder, "float32")


def test_a_head_of_two_labels_is_refused(folder: Path) -> None:
    # T10: a model with several labels has no single reward.
    change_tensors(folder, v_head__weight=torch.zeros(2, 48))
    with pytest.raises(CheckpointError, match=r"v_head\.weight \(2, 48\) instead of \(1, 48\)"):
        load_internlm2_reward(folder, "float32")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "not an InternLM2 reward model"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"bias": True}, "bias True"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"num_hidden_layers": 3}, "missing: model.layers.2"),
        ({"num_hidden_layers": 1}, "unexpected: model.layers.1"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_internlm2_reward(folder, "float32")


def test_a_config_without_theta_is_refused(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["rope_theta"]
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="rope_theta"):
        load_internlm2_reward(folder, "float32")


def test_a_config_without_a_pad_token_scores_batches_all_the_same(folder: Path) -> None:
    # T3: classifiers of transformers raise, or read the wrong token.
    change_config(folder, pad_token_id=None)
    engine = Engine(load_internlm2_reward(folder, "float32"), device="cpu", dtype="float32")
    cases = expected("polar_tiny_b")["single"]
    rewards = engine.score([ids_of(case) for case in cases])[:, 0]
    np.testing.assert_allclose(rewards, [case["reward"] for case in cases], atol=1e-4, rtol=0)


def test_dynamic_ntk_beyond_the_trained_positions_is_refused(folder: Path) -> None:
    change_config(folder, max_position_embeddings=32, rope_scaling={"type": "dynamic", "factor": 2.0})
    engine = Engine(load_internlm2_reward(folder, "float32"), device="cpu", dtype="float32")
    for case in expected("polar_tiny_b")["single"]:
        if len(case["input_ids"]) <= 32:
            assert engine.score([ids_of(case)])[0, 0] == pytest.approx(case["reward"], abs=1e-4)
        else:
            with pytest.raises(ValueError, match="can be given 32 at most"):
                engine.score([ids_of(case)])


@pytest.mark.skipif(not SHARED_NTK.is_dir(), reason="the checkpoint with a short dynamic NTK is not here")
def test_dynamic_ntk_within_the_trained_positions_gets_the_original_reward() -> None:
    engine = Engine(load_internlm2_reward(SHARED_NTK, "float32"), device="cpu", dtype="float32")
    cases = json.loads((SHARED_NTK / "expected.json").read_text())["single"]
    within = [case for case in cases if len(case["input_ids"]) <= 32]
    assert len(within) >= 8
    rewards = engine.score([ids_of(case) for case in within])[:, 0]
    np.testing.assert_allclose(rewards, [case["reward"] for case in within], atol=1e-4, rtol=0)


def test_a_config_of_more_layers_than_the_weights_is_refused_before_they_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_config(folder, num_hidden_layers=10_000_000)
    monkeypatch.setattr("polar_ray.models.internlm2.read_tensors", None)
    with pytest.raises(CheckpointError, match="has num_hidden_layers 10,000,000, but the weights beside it are"):
        load_internlm2_reward(folder, "float32")
