"""What every reward model scorer does: isolation of errors, self-check, fingerprint."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from polar_ray.data.group import Candidate, Group, Message, groups_to_table
from polar_ray.engine.engine import Engine
from polar_ray.errors import ScoringError, SelfCheckError
from polar_ray.models.internlm2 import load_internlm2_reward
from polar_ray.recipe.scorers import InternLM2Reward, Polar
from polar_ray.scorers.catalog import fingerprint_of
from polar_ray.scorers.encoded import EncodedRows
from polar_ray.scorers.polar import PolarScorer
from polar_ray.scorers.self_check import check_scorer

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "polar"
CHEAP = {"dtype": "float32", "device": "cpu", "self_check": "numeric"}


def load(folder: Path = GOLDEN / "polar_tiny_b", **settings: Any) -> PolarScorer:
    return PolarScorer.from_pretrained(folder, **CHEAP | settings)


def group(name: str, *answers: str) -> Group:
    candidates = tuple(Candidate(str(n), (Message("assistant", text),)) for n, text in enumerate(answers))
    return Group(name, (Message("user", f"Prompt {name}."),), ((Message("assistant", "Beijing."),),), candidates)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "polar_tiny_b", tmp_path / "model"))


def change_tensor(folder: Path, name: str, row: int | None, value: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[name][slice(None) if row is None else row] = value
    save_file(tensors, folder / "model.safetensors")


def encoded_with_bad_ids(scorer: PolarScorer, groups: pa.Table, bad: set[int]) -> pa.Table:
    """Encodes the groups, with an id beyond the vocabulary in those that are named bad."""
    rows = EncodedRows()
    for row in scorer.encoder.encode(groups).to_pylist():
        more = [4711] if row["group"] in bad else []
        rows.add(row["group"], row["candidate"], [row["ids"], more])
    return rows.table()


def test_an_error_in_one_group_is_a_status_on_that_group_alone() -> None:
    scorer = load()
    groups = groups_to_table([group("a", "x", "y"), group("b", "x", "y", "z"), group("c", "x")])
    plain = scorer.score_table(groups, None)
    scores = scorer.score_table(groups, encoded_with_bad_ids(scorer, groups, {1}))
    assert scores.status.to_pylist() == ["ok", "ok", "error", "error", "error", "ok"]
    assert all("vocabulary has 1000" in error for error in scores.error.to_pylist()[2:5])
    for place, reward in enumerate(scores.reward.to_pylist()):
        if 2 <= place < 5:
            assert reward is None
        else:
            assert reward == pytest.approx(plain.reward[place].as_py(), abs=1e-4)


def test_an_error_in_every_group_is_raised() -> None:
    scorer = load()
    groups = groups_to_table([group("a", "x"), group("b", "y")])
    with pytest.raises(ScoringError, match=r"every one of 2 groups.*vocabulary has 1000"):
        scorer.score_table(groups, encoded_with_bad_ids(scorer, groups, {0, 1}))


def test_a_non_finite_reward_is_null_with_a_status(folder: Path) -> None:
    # T15: NaN must be counted, never ranked.
    scorer = load(folder)
    groups = groups_to_table([group("a", "Beijing.", "Shanghai.")])
    beijing, shanghai = scorer.encoder.encode(groups).column("ids").to_pylist()
    change_tensor(folder, "model.tok_embeddings.weight", min(set(shanghai) - set(beijing)), float("nan"))
    damaged = load_internlm2_reward(folder, "float32")
    scorer.engine = Engine(damaged, device="cpu", dtype="float32")
    scores = scorer.score_table(groups, None)
    assert scores.status.to_pylist() == ["ok", "non_finite"]
    assert scores.reward.is_null().to_pylist() == [False, True]
    assert scores.tokens.to_pylist()[1] > 0


def test_columns_have_the_settled_types() -> None:
    scores = load().score_table(groups_to_table([group("a", "x"), group("b", "x", "y")]), None)
    assert [column.type for column in (scores.reward, scores.status, scores.tokens, scores.error)] == [
        pa.float32(),
        pa.string(),
        pa.int32(),
        pa.string(),
    ]
    assert len(scores) == 3
    assert scores.extras == {}


def test_the_same_table_gives_the_same_bits() -> None:
    groups = groups_to_table([group(str(n), "x", "y " * n, "Beijing. " * (n % 5)) for n in range(20)])
    scorer = load(token_budget=256)
    first, second = scorer.score_table(groups, None), scorer.score_table(groups, None)
    assert first.reward.equals(second.reward)


# On these random weights the README's pair happens to come out right in polar_tiny_b and wrong in polar_tiny_a.
def test_a_model_in_the_known_order_starts() -> None:
    load(GOLDEN / "polar_tiny_b", self_check="order")


def test_a_model_in_the_wrong_order_refuses_to_start() -> None:
    with pytest.raises(
        SelfCheckError, match=r"'Beijing\.' scores -1\.9456 and the bad one 'Shanghai\.' scores 0\.6859"
    ):
        load(GOLDEN / "polar_tiny_a", self_check="order")


def test_known_scores_are_checked_at_start() -> None:
    known = {"prompt": "What is the capital of China?", "reference": "Beijing.", "candidate": "Shanghai."}
    load(known_scores=[known | {"reward": -5.1319, "tolerance": 0.001}])
    with pytest.raises(SelfCheckError, match=r"known_scores says -4\.0 ± 0\.05 for 'Shanghai\.', .* is -5\.13"):
        load(known_scores=[known | {"reward": -4.0}])


def test_a_model_that_gives_nan_refuses_to_start(folder: Path) -> None:
    change_tensor(folder, "model.norm.weight", None, float("nan"))
    with pytest.raises(SelfCheckError, match="nan"):
        load(folder)


def test_a_vocabulary_smaller_than_the_tokenizers_refuses_to_start(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.tok_embeddings.weight"] = tensors["model.tok_embeddings.weight"][:500].clone()
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 500}))
    with pytest.raises(SelfCheckError, match="the model's vocabulary has 500"):
        load(folder)


def test_a_model_that_sees_its_padding_refuses_to_start() -> None:
    # T2: attention that is not causal reads what the batch is padded with.
    scorer = load()
    model = load_internlm2_reward(GOLDEN / "polar_tiny_b", "float32")
    for layer in model.backbone.layers:
        layer.self_attn.is_causal = False
    scorer.engine = Engine(model, device="cpu", dtype="float32")
    with pytest.raises(SelfCheckError, match="lets padding through"):
        check_scorer(scorer)


def test_the_fingerprint_covers_settings_code_and_files(folder: Path) -> None:
    def fingerprint(**settings: Any) -> dict[str, str]:
        return fingerprint_of(Polar(model=str(folder), **settings))

    plain = fingerprint()
    assert {
        "kind",
        "scoring_code",
        "setting:dtype",
        "setting:max_length",
        "setting:response_cut_side",
        "file:config.json",
        "file:model.safetensors",
        "file:tokenizer.model",
    } <= plain.keys()
    assert fingerprint(device="cpu", token_budget=7, self_check="numeric") == plain
    changed = fingerprint(dtype="float32", strip_think=True)
    assert {name for name in plain if plain[name] != changed[name]} == {"setting:dtype", "setting:strip_think"}
    change_tensor(folder, "v_head.weight", None, 0.0)
    assert {name for name, value in fingerprint().items() if plain[name] != value} == {"file:model.safetensors"}


def test_the_fingerprint_does_not_depend_on_where_the_model_lies(folder: Path) -> None:
    assert fingerprint_of(Polar(model=str(folder))) == fingerprint_of(Polar(model=str(GOLDEN / "polar_tiny_b")))


def test_scorers_of_another_kind_have_another_fingerprint() -> None:
    folder = str(GOLDEN / "internlm2_reward_tiny")
    polar, reward = fingerprint_of(Polar(model=folder)), fingerprint_of(InternLM2Reward(model=folder))
    assert polar["kind"] != reward["kind"]
    assert polar["scoring_code"] != reward["scoring_code"]


def test_encoders_load_no_torch() -> None:
    modules = ["polar_ray.scorers.polar_encoder", "polar_ray.scorers.internlm2_reward_encoder"]
    code = f"import sys, {', '.join(modules)}; print('torch' in sys.modules, 'transformers' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
