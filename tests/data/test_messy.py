"""Every line of the messy set ends where its class says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polar_ray.recipe.input import CandidateFields, Columns, Input

GROUP = "group"
POLICY = {
    "blank_line": "blank_line",
    "bom_file_start": GROUP,
    "bom_mid_file": "byte_order_mark",
    "content_empty_list": "messages_empty",
    "content_openai_parts": GROUP,
    "dup_output_id_across_rows": GROUP,
    "json_5000_digit_int": GROUP,
    "json_duplicate_key": "duplicate_key",
    "json_nan_literal": "nan_literal",
    "labels_conflicting": GROUP,
    "labels_unknown_output_id": GROUP,
    "lone_surrogate_escape": "lone_surrogate",
    "missing_key_prompt_id": GROUP,
    "missing_key_reference": GROUP,
    "nfd_twin": GROUP,
    "output_message_missing_role": GROUP,
    "output_missing_output_id": GROUP,
    "outputs_list_of_str": GROUP,
    "prompt_empty_content": GROUP,
    "prompt_id_int": GROUP,
    "prompt_odd_role_order": GROUP,
    "prompt_plain_str": GROUP,
    "prompt_unknown_role": GROUP,
    "reference_empty_content": GROUP,
    "reference_empty_list": GROUP,
    "reference_plain_str": GROUP,
    "row_split_in_two_part1": GROUP,
    "row_split_in_two_part2": "duplicate_prompt_id",
    "whitespace_twin": GROUP,
}


def messy_input(path: Path, **options: Any) -> Input:
    columns, fields = Columns(candidates="outputs"), CandidateFields(candidate_id="output_id", messages="content")
    return Input(path=str(path), columns=columns, candidate_fields=fields, **options)


def test_every_line_ends_where_its_class_says(shared: Path, read_input: Callable[..., Any]) -> None:
    manifest = [json.loads(line) for line in (shared / "messy/manifest.jsonl").read_text().split("\n") if line]
    data = (shared / "messy/messy.jsonl").read_bytes()
    read = read_input(messy_input(shared / "messy/messy.jsonl", split_rows=1000))
    letters = {letter["row"]: letter for letter in read.dead_letters}
    groups = set(read.input_rows)
    assert read.parsed[0].rows == len(manifest) == 427
    for entry in manifest:
        row, class_ = entry["line"] - 1, entry["cls"]
        end = GROUP if row in groups else letters[row]["reason"] if row in letters else "blank_line"
        if class_ in ("valid", "valid_edge"):
            assert end == GROUP, entry
        elif class_ == "policy":
            assert end == POLICY[entry["case"]], entry
        else:
            assert row in letters, entry
            assert row not in groups, entry
            assert (letters[row]["stage"] == "parse") == (class_ == "unparseable"), entry
            assert (letters[row]["stage"] == "duplicate") == (class_ == "duplicate"), entry
        if row in letters:
            raw = data[entry["offset"] : entry["offset"] + entry["nbytes"]]
            assert letters[row]["raw"] == raw.removesuffix(b"\n"), "the raw bytes are kept"


def test_the_texts_of_every_group_are_those_of_its_line(shared: Path, read_input: Callable[..., Any]) -> None:
    lines = (shared / "messy/messy.jsonl").read_bytes().split(b"\n")
    read = read_input(messy_input(shared / "messy/messy.jsonl", split_rows=1000))

    def texts(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value]
        return [
            "".join(part["text"] for part in message["content"])
            if isinstance(message["content"], list)
            else message["content"]
            for message in value or []
        ]

    for row, group in zip(read.input_rows, read.groups.to_pylist(), strict=True):
        source = json.loads(lines[row].removeprefix(b"\xef\xbb\xbf"), parse_int=str)
        assert [message["content"] for message in group["prompt"]] == texts(source["prompt"])
        references = [texts(source["reference"])] if source.get("reference") else []
        if source.get("reference") == "":
            references = [[""]]
        assert [[message["content"] for message in reference] for reference in group["references"]] == references
        outputs = [output["content"] if isinstance(output, dict) else output for output in source["outputs"]]
        assert [[message["content"] for message in candidate["messages"]] for candidate in group["candidates"]] == list(
            map(texts, outputs)
        )


@pytest.mark.parametrize(
    ("file", "groups", "reasons"),
    [
        ("truncated.parquet", 0, [(0, "unreadable")]),
        ("not_a_parquet.parquet", 0, [(0, "unreadable")]),
        ("empty.parquet", 0, [(0, "unreadable")]),
        ("zero_rows.parquet", 0, []),
        ("empty.jsonl", 0, []),
        ("truncated.jsonl.zst", 0, [(0, "unreadable")]),
        ("multi_member.jsonl.gz", 40, []),
        ("multi_frame.jsonl.zst", 40, []),
        ("other_types.parquet", 40, []),
        (
            "nulls.parquet",
            5,
            [
                (0, "candidates_null"),
                (1, "candidates_empty"),
                (4, "prompt_null"),
                (5, "prompt_empty"),
                (6, "messages_null"),
                (7, "content_null"),
                (9, "prompt_id_null"),
            ],
        ),
    ],
)
def test_broken_files(
    shared: Path, read_input: Callable[..., Any], file: str, groups: int, reasons: list[tuple[int, str]]
) -> None:
    read = read_input(messy_input(shared / "messy" / file))
    assert read.groups.num_rows == groups
    assert read.reasons == reasons
    assert [raw.last for raw in read.raws] == [True]


def test_a_broken_file_does_not_touch_its_neighbours(shared: Path, read_input: Callable[..., Any]) -> None:
    files = ["empty.parquet", "multi_frame.jsonl.zst", "truncated.jsonl.zst", "truncated.parquet"]
    config = messy_input(shared, split_rows=16).model_copy(update={"path": [str(shared / "messy" / f) for f in files]})
    read = read_input(config)
    assert read.groups.num_rows == 40
    assert [reason for _, reason in read.reasons] == ["unreadable"] * 3


@pytest.mark.parametrize("name", ["small/small", "medium/gsm8k", "medium/arena_bench_v1"])
def test_jsonl_and_parquet_of_the_same_rows_give_the_same_groups(
    shared: Path, read_input: Callable[..., Any], name: str
) -> None:
    suffix = "jsonl" if name.startswith("small") else "jsonl.zst"
    jsonl = read_input(messy_input(shared / f"{name}.{suffix}", split_rows=100))
    parquet = read_input(messy_input(shared / f"{name}.parquet"))
    assert jsonl.dead_letters == parquet.dead_letters == []
    assert jsonl.groups.equals(parquet.groups)
    assert jsonl.groups["extra"].null_count == 0
