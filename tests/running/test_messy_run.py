"""The messy set through the whole job: nothing is lost, and every valid candidate has its reward."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from runs import dead_letters, recipe, score_table

from polar_ray.running.manifest import Manifest
from polar_ray.running.run import run

COLUMNS = {"candidates": "outputs"}
FIELDS = {"candidate_id": "output_id", "messages": "content"}


@pytest.fixture(scope="module")
def messy(
    shared: Path, tmp_path_factory: pytest.TempPathFactory, embedded_ray: None
) -> tuple[Path, Manifest, list[dict[str, Any]]]:
    output = tmp_path_factory.mktemp("messy") / "out"
    source = {"path": str(shared / "data/messy/messy.jsonl"), "columns": COLUMNS, "candidate_fields": FIELDS}
    scorers = {"length": {"kind": "length"}, "closeness": {"kind": "text_closeness"}}
    wanted = recipe("", output, input={**source, "split_rows": 50}, scorers=scorers)
    lines = (shared / "data/messy/manifest.jsonl").read_text().split("\n")
    return output, run(wanted), [json.loads(line) for line in lines if line]


@pytest.fixture
def table(messy: tuple[Path, Manifest, list[dict[str, Any]]]) -> pa.Table:
    return score_table(messy[0])


def test_every_line_ends_in_one_place(messy: tuple[Path, Manifest, list[dict[str, Any]]], table: pa.Table) -> None:
    output, manifest, entries = messy
    letters = dead_letters(output)
    ends = Counter([*table.column("input_row").to_pylist(), *(letter["row"] for letter in letters)])
    blank = [entry["line"] - 1 for entry in entries if entry["case"] == "blank_line"]
    assert ends + Counter(blank) == Counter(range(len(entries)))
    assert manifest.conservation == {
        "rows_read": len(entries),
        "rows_in_groups": table.num_rows,
        "dead_letters": len(letters),
        "drops": len(blank),
        "holds": True,
    }


def test_valid_lines_are_groups_and_unparseable_ones_are_not(
    messy: tuple[Path, Manifest, list[dict[str, Any]]], table: pa.Table
) -> None:
    in_table = set(table.column("input_row").to_pylist())
    for entry in messy[2]:
        if entry["cls"] in ("valid", "valid_edge"):
            assert entry["line"] - 1 in in_table, entry
        elif entry["cls"] != "policy":
            assert entry["line"] - 1 not in in_table, entry


def test_every_candidate_has_a_length_and_a_closeness_if_there_is_a_reference(table: pa.Table) -> None:
    scores = [f"{field}_{name}" for name in ("length", "closeness") for field in ("reward", "status")]
    rows = table.select(["references", "candidates", *scores])
    for row in rows.to_pylist():
        texts = ["\n".join(message["content"] for message in candidate["messages"]) for candidate in row["candidates"]]
        assert row["reward_length"] == [float(len(text)) for text in texts]
        assert set(row["status_length"]) == {"ok"}
        has_reference = any(message["content"].strip() for reference in row["references"] for message in reference)
        assert set(row["status_closeness"]) == {"ok" if has_reference else "no_reference"}
        if has_reference:
            assert all(0 <= reward <= 1 for reward in row["reward_closeness"])
        else:
            assert row["reward_closeness"] == [None] * len(texts)


def test_the_manifest_tells_what_became_of_the_lines(messy: tuple[Path, Manifest, list[dict[str, Any]]]) -> None:
    output, manifest, _ = messy
    assert manifest.counts["dead_letters"] == Counter(letter["reason"] for letter in dead_letters(output))
    assert manifest.counts["statuses"]["length"] == {"ok": manifest.counts["candidates"]}
