"""Law 10: what a message carries and a scorer cannot show its model is a status, and changes nothing for the others."""

import copy
from pathlib import Path
from typing import Any

import pytest
from conftest import rows, write_jsonl, write_parquet
from runs import TINY_POLAR, recipe, score_table

from polar_ray.running.plan import plan
from polar_ray.running.run import run

pytestmark = pytest.mark.usefixtures("embedded_ray")

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SCORERS = {"length": {"kind": "length"}, "polar": TINY_POLAR}


def carrying() -> list[dict[str, Any]]:
    """Rows of which the second has a call without text and one with, the third an image in its prompt."""
    data = copy.deepcopy(rows(4))
    data[1]["candidates"][0]["messages"] = [{"role": "assistant", "content": None, "tool_calls": [CALL]}]
    data[1]["candidates"][2]["messages"][0]["tool_calls"] = [CALL]
    data[2]["prompt"][0]["content"] = [{"type": "text", "text": "What is this?"}, {"type": "image_url"}]
    return data


@pytest.mark.parametrize("write", [write_jsonl, write_parquet], ids=["jsonl", "parquet"])
def test_a_call_or_an_image_is_unsupported_and_its_neighbours_keep_their_scores(write: Any, tmp_path: Path) -> None:
    data = carrying()
    if write is write_parquet:
        # A column has one type: all prompts as parts.
        for row in data:
            content = row["prompt"][0]["content"]
            row["prompt"][0]["content"] = content if isinstance(content, list) else [{"type": "text", "text": content}]
    wanted = recipe(
        write(tmp_path / "in" / "data", data), tmp_path / "out", f"input.format={write.__name__[6:]}", scorers=SCORERS
    )
    assert plan(wanted).warnings[0].startswith("5 of the 12 candidates in the sample will have the status unsupported")
    manifest = run(wanted)
    assert manifest.counts["statuses"] == {name: {"ok": 7, "unsupported": 5} for name in SCORERS}
    assert manifest.counts["dead_letters"] == {}
    alone = recipe(write_jsonl(tmp_path / "plain.jsonl", rows(4)), tmp_path / "plain", scorers=SCORERS)
    run(alone)
    for number, (row, plain) in enumerate(
        zip(score_table(tmp_path / "out").to_pylist(), score_table(tmp_path / "plain").to_pylist(), strict=True)
    ):
        out = {1: [True, False, True], 2: [True] * 3}.get(number, [False] * 3)
        for name in SCORERS:
            assert row[f"status_{name}"] == ["unsupported" if each else "ok" for each in out]
            expected = [None if each else value for each, value in zip(out, plain[f"reward_{name}"], strict=True)]
            assert row[f"reward_{name}"] == pytest.approx(expected, abs=1e-4)
    assert score_table(tmp_path / "out")["error_polar"].to_pylist()[1:3] == [
        [
            f"message 0 of the candidate has tool_calls, {CANNOT}",
            None,
            f"message 0 of the candidate has tool_calls, {CANNOT}",
        ],
        [f"message 0 of the prompt has content of type image_url, {CANNOT}"] * 3,
    ]


CANNOT = "which this scorer cannot show its model"
