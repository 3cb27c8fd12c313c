"""Tensor parallelism: several ranks give what one gives, and end together.

On the CPU the ranks are processes that sum through gloo; the split of the weights and the forwards are those of GPUs.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from tiny_models import make_model, make_sequences

from polar_ray.data.group import Candidate, Group, Message, groups_to_table
from polar_ray.engine.engine import Engine
from polar_ray.errors import DeviceLost, RecipeError
from polar_ray.scorers.polar import PolarScorer

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
POLAR = ROOT / "tests" / "golden" / "polar" / "polar_tiny_a"
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {"attention_bias": True, "mlp_bias": True},
    "Qwen2": {},
    "Gemma2": {},
}


def make_engine(family: str = "Llama", **settings: Any) -> Engine:
    return Engine(make_model(family, **FAMILIES[family]), **{"device": "cpu", "dtype": "float32"} | settings)


SEQUENCES = make_sequences(groups=1)


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "polar_ray.engine.rank" in " ".join(child.cmdline())]


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    assert children() == []
    yield
    assert children() == []


@pytest.mark.parametrize("family", FAMILIES)
def test_two_ranks_give_the_rewards_of_one(family: str) -> None:
    one = make_engine(family)
    two = make_engine(family, ranks=2, token_budget=64)
    assert two.plain_because is None
    assert two.fused
    assert len(two.plan(SEQUENCES).forwards) > 2
    first = two.score(SEQUENCES)
    np.testing.assert_allclose(first, one.score(SEQUENCES), atol=1e-5, rtol=0)
    np.testing.assert_allclose(two.score_alone(SEQUENCES), one.score_alone(SEQUENCES), atol=1e-5, rtol=0)
    assert two.score(SEQUENCES).tobytes() == first.tobytes()
    assert two.score([]).shape == (0, 1)


def test_each_rank_holds_its_heads_and_its_columns_only_and_plain_forwards_are_spread_too() -> None:
    model = make_model("Llama", **FAMILIES["Llama"])
    whole = {name: tensor.numel() for name, tensor in model.backbone.named_parameters()}
    engine = Engine(model, device="cpu", dtype="float32", ranks=2, path="plain")
    np.testing.assert_allclose(engine.score(SEQUENCES), make_engine().score_alone(SEQUENCES), atol=1e-5, rtol=0)
    mine = {name.replace(".linear", ""): tensor.numel() for name, tensor in model.backbone.named_parameters()}
    for name, size in whole.items():
        # The biases of what goes out of the heads and columns are added once, on the first rank.
        is_split = "proj" in name and not name.endswith(("o_proj.bias", "down_proj.bias"))
        assert mine[name] == (size // 2 if is_split else size)


@pytest.mark.parametrize(
    ("family", "settings", "ranks", "message"),
    [
        ("Llama", {}, 4, r"2 key-value heads cannot be split evenly over 4 devices.*gpus_per_actor to 1 or 2"),
        ("Llama", {"intermediate_size": 95}, 2, r"95 feed-forward columns cannot be split"),
        ("GPTNeoX", {}, 2, r"A GPTNeoXModel cannot be split over 2 devices; those that can are Gemma, .*Qwen3"),
    ],
)
def test_a_model_that_does_not_divide_is_refused(
    family: str, settings: dict[str, Any], ranks: int, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        Engine(make_model(family, **settings), device="cpu", dtype="float32", ranks=ranks)


def test_a_rank_that_cannot_begin_is_an_error_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    start = time.monotonic()
    with pytest.raises(DeviceLost, match=r"Rank 1 of 2, which held a part of the model, ended with exit code 1"):
        make_engine(ranks=2)
    assert time.monotonic() - start < 5


def test_polar_on_two_ranks_gives_the_original_rewards_until_one_is_killed() -> None:
    scorer = PolarScorer.from_pretrained(POLAR, dtype="float32", device="cpu", self_check="numeric", ranks=2)
    cases = json.loads((POLAR / "expected.json").read_text())["single"]
    rewards = scorer.engine.score([np.array(case["input_ids"], np.int32) for case in cases])[:, 0]
    np.testing.assert_allclose(rewards, [case["reward"] for case in cases], atol=1e-4, rtol=0)
    answers = tuple(Candidate(text, (Message("assistant", text),)) for text in ("a", "b"))
    groups = groups_to_table([Group(n, (Message("user", "?"),), (answers[0].messages,), answers) for n in "123"])
    assert scorer.score_table(groups, None).status.to_pylist() == ["ok"] * 6
    (child,) = children()
    child.kill()
    start = time.monotonic()
    # Not a status of each group: nothing can be scored here any more.
    with pytest.raises(DeviceLost, match=r"Rank 1 of 2.*ended with exit code -9"):
        scorer.score_table(groups, None)
    with pytest.raises(DeviceLost, match=r"Rank 1 of 2.*ended with exit code -9"):
        scorer.engine.score(SEQUENCES)
    assert time.monotonic() - start < 10
    scorer.engine.close()


def test_half_precision_stays_within_its_rounding_until_a_rank_hangs() -> None:
    sequences = make_sequences(40, 3)
    exact = make_engine().score(sequences)
    engine = make_engine(dtype="bfloat16", ranks=2, rank_timeout_s=8)
    one, two, plain = (
        float(np.sqrt(((scores - exact) ** 2).mean()))
        for scores in (
            make_engine(dtype="bfloat16").score(sequences),
            engine.score(sequences),
            make_engine(dtype="bfloat16").score_alone(sequences),
        )
    )
    # What each rank gives is rounded before it is summed, where one device keeps it: 0.7e-3, 1.2e-3 and 2.5e-3 here.
    assert one < two <= 0.75 * plain
    (child,) = children()
    child.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(DeviceLost, match="2 ranks of the model have not finished a forward within 8 s"):
        engine.score(SEQUENCES)
    assert 7 < time.monotonic() - start < 25
    engine.close()


def test_a_failure_of_the_first_rank_ends_the_others() -> None:
    engine = make_engine(ranks=2)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("Tried to allocate 3 GiB")

    engine._head.register_forward_pre_hook(fail)
    with pytest.raises(DeviceLost, match=r"first of the 2 ranks.*Tried to allocate 3 GiB.*smaller token_budget"):
        engine.score(SEQUENCES)
    engine.close()


def test_a_rank_that_ends_after_its_last_sum_is_an_error_all_the_same() -> None:
    engine = make_engine(ranks=2)
    (child,) = children()

    def kill(*_: object) -> None:
        child.kill()
        time.sleep(1)

    engine._head.register_forward_pre_hook(kill)
    with pytest.raises(DeviceLost, match=r"Rank 1 of 2.*ended with exit code -9"):
        engine.score(SEQUENCES)
    engine.close()


def test_the_ranks_end_with_a_first_rank_that_is_killed_and_leave_no_file(tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path[:0] = ['tests', 'tests/engine']; import test_ranks as t\n"
        "engine = t.make_engine(ranks=2); print(t.children()[0].pid, flush=True); time.sleep(60)"
    )
    where = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=where
    ) as first:
        assert first.stdout is not None
        other = psutil.Process(int(first.stdout.readline()))
        first.kill()
    psutil.wait_procs([other], timeout=5)
    assert not other.is_running() or other.status() == psutil.STATUS_ZOMBIE
    # Others than the ranks make their folders there.
    assert [path.name for path in tmp_path.rglob("*") if "rank" in path.name or path.name == "store"] == []
