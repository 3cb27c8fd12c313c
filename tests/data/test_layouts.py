"""One row per group, one row per candidate, JSONL, Parquet: the same groups."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polar_ray.data.listing import list_input
from polar_ray.data.reading import read_source
from polar_ray.data.scattered import CANDIDATE_ROW_SCHEMA, CandidateRows, assemble, parse_candidate_rows
from polar_ray.data.sources import plan_sources
from polar_ray.recipe.input import Input

ReadInput = Callable[..., Any]
Parse = Callable[..., Any]

GROUPS = [
    {
        "prompt_id": f"p{i:02d}",
        "prompt": [{"role": "user", "content": f"question {i}"}],
        "reference": [{"role": "assistant", "content": f"gold {i}"}] if i % 3 else None,
        "candidates": [
            {
                "candidate_id": f"c{j}",
                "messages": [{"role": "assistant", "content": f"answer {i} {j}"}],
                "model": "m",
                "t": 0.5,
            }
            for j in range(1 + i % 4)
        ],
    }
    for i in range(20)
]


def candidate_rows(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**{key: value for key, value in group.items() if key != "candidates"}, **candidate}
        for group in groups
        for candidate in group["candidates"]
    ]


def without_ids(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            key: without_ids(value) if key == "candidates" else value
            for key, value in row.items()
            if key not in ("prompt_id", "candidate_id")
        }
        for row in rows
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=9)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def parse_scattered(config: Input, partitions: int = 4) -> tuple[list[CandidateRows], list[str]]:
    files = list_input(config)
    parsed = [
        parse_candidate_rows(raw, config, partitions)
        for source in plan_sources(files, config)
        for raw in read_source(source, config)
    ]
    return parsed, [file.path for file in files]


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_all_layouts_give_the_same_groups(tmp_path: Path, read_input: ReadInput, name: str, ids: bool) -> None:
    groups = GROUPS if ids else without_ids(GROUPS)
    plain = read_input(Input(path=write(tmp_path / "plain.jsonl", groups)))
    other = read_input(Input(path=write(tmp_path / f"groups-{name}", groups), split_rows=3))
    config = Input(
        path=write(tmp_path / f"candidates-{name}", candidate_rows(groups)), layout="candidates", split_rows=5
    )
    candidates = read_input(config)
    parsed, files = parse_scattered(config.model_copy(update={"layout": "scattered"}))
    scattered = assemble(pa.concat_tables([split.table for split in parsed]), files)
    assert (
        plain.dead_letters == other.dead_letters == candidates.dead_letters == scattered.dead_letters.to_pylist() == []
    )
    assert plain.groups.num_rows == 20
    assert other.groups.equals(plain.groups)
    assert candidates.groups.equals(plain.groups)
    order = pa.compute.sort_indices(plain.groups["prompt_id"])
    order_scattered = pa.compute.sort_indices(scattered.groups["prompt_id"])
    assert scattered.groups.take(order_scattered).equals(plain.groups.take(order))
    assert len(set(plain.groups["prompt_id"].to_pylist())) == 20
    assert plain.groups["candidates"].to_pylist()[0][0]["extra"] == '{"t":0.5}'


def test_derived_ids_are_what_they_always_were(parse_rows: Parse) -> None:
    """Ids are part of a user's data: they must not change with a version."""
    read = parse_rows([{"prompt": "2 + 2?", "reference": "4", "candidates": ["four", "five", "four", ""]}])
    group = read.groups.to_pylist()[0]
    # Computed once, apart from this code, by the rule that `ids` states.
    assert group["prompt_id"] == "f22c8c0f5e497a6d51dc236479fea843"
    assert [candidate["candidate_id"] for candidate in group["candidates"]] == [
        "98609a4e929909745e0018f8f58fb652",
        "638fd966108f65b3ee9730a2f5710d06",
        "98609a4e929909745e0018f8f58fb652-1",
        "e0e8f0735613460aacde00221c2bdcfd",
    ]


def test_derived_ids_do_not_depend_on_how_the_text_is_written(parse_rows: Parse) -> None:
    as_text = {"prompt": "é", "reference": "4", "candidates": ["four"]}
    as_messages = b"""{"candidates": [{"messages": [{"content": "four", "role": "assistant"}], "model": "m"}],
        "references": [[{"role": "assistant", "content": "4"}]], "prompt": [{"role": "user", "content": "\\u00e9"}]}"""
    first = parse_rows([as_text]).groups.to_pylist()[0]
    second = parse_rows([as_messages.replace(b"\n", b"")]).groups.to_pylist()[0]
    assert first["prompt_id"] == second["prompt_id"]
    assert first["candidates"][0]["candidate_id"] == second["candidates"][0]["candidate_id"]


def test_different_messages_have_different_derived_ids(parse_rows: Parse) -> None:
    prompts = [
        [{"role": "user", "content": "ab"}],
        [{"role": "use", "content": "rab"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": "ab"}, {"role": "user", "content": ""}],
        [{"role": "user", "content": ""}, {"role": "user", "content": "ab"}],
        [{"role": "system", "content": "ab"}],
    ]
    rows = [{"prompt": prompt, "candidates": ["x"]} for prompt in prompts]
    rows += [
        {"prompt": "ab", "reference": "", "candidates": ["x"]},
        {"prompt": "ab", "references": ["", ""], "candidates": ["x"]},
    ]
    assert len(set(parse_rows(rows).groups["prompt_id"].to_pylist())) == len(rows)


def base(**changes: Any) -> dict[str, Any]:
    return {"prompt_id": "p", "prompt": "q", "reference": "4", "candidate_id": "a", "messages": "x", **changes}


CONFLICTS = [
    (base(candidate_id="b", prompt="other"), "conflict", "conflicting_prompt"),
    (base(candidate_id="b", reference="5"), "conflict", "conflicting_reference"),
    (base(candidate_id="b", reference=None), "conflict", "conflicting_reference"),
    (base(messages="y"), "duplicate", "duplicate_candidate_id"),
    (base(model="m"), "duplicate", "duplicate_candidate_id"),
    (base(), "duplicate", "duplicate_row"),
]


@pytest.mark.parametrize(("row", "stage", "reason"), CONFLICTS)
def test_a_row_that_contradicts_the_first_of_its_prompt_is_a_dead_letter(
    parse_rows: Parse, row: dict[str, Any], stage: str, reason: str
) -> None:
    read = parse_rows([base(), row, base(candidate_id="z")], layout="candidates")
    (letter,) = read.dead_letters
    assert (letter["row"], letter["stage"], letter["reason"]) == (1, stage, reason)
    assert json.loads(letter["raw"]) == row
    (group,) = read.groups.to_pylist()
    assert [candidate["candidate_id"] for candidate in group["candidates"]] == ["a", "z"]
    assert read.parsed[0].rows_in_groups == 2
    assert read.parsed[0].places.to_pylist() == [{"input_file": letter["file"], "input_row": 0, "input_rows": 2}]


@pytest.mark.parametrize(("row", "stage", "reason"), CONFLICTS)
def test_scattered_rows_that_contradict_the_first_one_are_dead_letters(
    tmp_path: Path, row: dict[str, Any], stage: str, reason: str
) -> None:
    write(tmp_path / "a.jsonl", [base(), base(prompt_id="other")])
    write(tmp_path / "b.jsonl", [base(candidate_id="z"), row])
    parsed, files = parse_scattered(Input(path=str(tmp_path), layout="scattered"))
    result = assemble(pa.concat_tables([split.table for split in parsed]), files)
    (letter,) = result.dead_letters.to_pylist()
    assert (letter["file"], letter["row"]) == (str(tmp_path / "b.jsonl"), 1)
    assert (letter["stage"], letter["reason"]) == (stage, reason)
    assert json.loads(letter["raw"])["candidate"]["candidate_id"] == row["candidate_id"]
    assert result.rows == 4 == result.rows_in_groups + 1


def test_a_prompt_whose_rows_stand_apart_is_told_about_the_scattered_layout(parse_rows: Parse) -> None:
    read = parse_rows([base(), base(prompt_id="q"), base(candidate_id="b")], layout="candidates")
    assert read.reasons == [(2, "duplicate_prompt_id")]
    assert "input.layout: scattered" in read.dead_letters[0]["message"]
    assert read.groups["prompt_id"].to_pylist() == ["p", "q"]


def test_a_bad_row_does_not_separate_the_candidates_of_a_prompt(parse_rows: Parse) -> None:
    rows = [base(), b"{", base(prompt_id="q", messages=None), b"", base(candidate_id="b")]
    read = parse_rows(rows, layout="candidates")
    assert read.reasons == [(1, "invalid_json"), (2, "messages_null")]
    assert [len(candidates) for candidates in read.groups["candidates"].to_pylist()] == [2]


@pytest.mark.parametrize("ids", [True, False])
def test_scattered_groups_do_not_depend_on_the_order_of_arrival(tmp_path: Path, ids: bool) -> None:
    rows = candidate_rows(GROUPS if ids else without_ids(GROUPS))
    random.Random(0).shuffle(rows)
    for i in range(4):
        write(tmp_path / f"{i}.{'jsonl' if i % 2 else 'parquet'}", rows[i::4])
    parsed, files = parse_scattered(Input(path=str(tmp_path), layout="scattered", split_rows=3))
    table = pa.concat_tables([split.table for split in parsed])
    assert table.schema == CANDIDATE_ROW_SCHEMA
    expected = assemble(table, files)
    assert expected.groups.num_rows == 20
    for seed in range(3):
        order = list(range(table.num_rows))
        random.Random(seed).shuffle(order)
        again = assemble(table.take(order), files)
        assert again.groups.equals(expected.groups)
        assert again.places.equals(expected.places)


def test_a_prompt_lies_in_one_partition(tmp_path: Path) -> None:
    config = Input(path=write(tmp_path / "a.jsonl", candidate_rows(GROUPS)), layout="scattered", split_rows=7)
    parsed, files = parse_scattered(config, partitions=5)
    table = pa.concat_tables([split.table for split in parsed])
    partitions = set(zip(table["key"].to_pylist(), table["partition"].to_pylist(), strict=True))
    assert len(partitions) == 20
    assert {partition for _, partition in partitions} <= {0, 1, 2, 3, 4}
    whole = assemble(table, files)
    pieces = [assemble(table.filter(pa.compute.equal(table["partition"], i)), files) for i in range(5)]
    assert sum(piece.groups.num_rows for piece in pieces) == whole.groups.num_rows == 20
    assert sum(piece.rows_in_groups for piece in pieces) == table.num_rows


def test_bad_rows_of_a_scattered_split_are_counted_before_the_shuffle(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(base()).encode() + b"\n\n{broken\n")
    ((rows,), _) = parse_scattered(Input(path=str(path), layout="scattered"))
    assert rows.rows == 3
    assert rows.table.num_rows == 1
    assert rows.drops == {"blank_line": 1}
    assert rows.dead_letters["reason"].to_pylist() == ["invalid_json"]


def test_an_empty_partition_has_no_groups() -> None:
    result = assemble(CANDIDATE_ROW_SCHEMA.empty_table(), [])
    assert result.groups.num_rows == result.rows == 0
