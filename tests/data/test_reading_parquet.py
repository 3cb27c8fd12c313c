import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from polar_ray.data.listing import list_input
from polar_ray.data.raw_split import RawSplit
from polar_ray.data.reading import read_source
from polar_ray.data.sources import RowGroup, plan_cuts, plan_sources
from polar_ray.data.storage import Storage
from polar_ray.recipe.input import Input

ReadInput = Callable[..., Any]


def table(rows: int) -> pa.Table:
    return pa.table(
        {
            "prompt_id": [f"p{i}" for i in range(rows)],
            "prompt": [f"question {i}" for i in range(rows)],
            "candidates": [[f"answer {i}", "other"] for i in range(rows)],
        }
    )


def candidate_table(prompts: list[int]) -> pa.Table:
    ids = [f"p{i}" for i, count in enumerate(prompts) for _ in range(count)]
    return pa.table(
        {"prompt_id": ids, "prompt": [f"q {i}" for i in ids], "messages": [f"m{n}" for n in range(len(ids))]}
    )


def read(path: Path | str, skip: frozenset[str] = frozenset(), **options: Any) -> list[RawSplit]:
    config = Input(path=str(path), **options)
    sources = plan_sources(list_input(config), config)
    return [raw for source in sources for raw in read_source(source, config, skip)]


def table_of(raw: RawSplit) -> pa.Table:
    return pa.ipc.open_stream(raw.payload).read_all()


@pytest.mark.parametrize(
    ("groups", "split_rows", "cuts"),
    [
        ([], 10, [0, 0]),
        ([0], 10, [0, 0]),
        ([5], 10, [0, 5]),
        ([4, 4, 4], 10, [0, 8, 12]),
        ([10, 10], 10, [0, 10, 20]),
        ([25], 10, [0, 8, 16, 25]),
        ([3, 25, 3], 10, [0, 3, 11, 19, 28, 31]),
        ([2, 0, 2], 10, [0, 4]),
    ],
)
def test_cuts_follow_row_groups(groups: list[int], split_rows: int, cuts: list[int]) -> None:
    assert plan_cuts([RowGroup(rows, rows) for rows in groups], split_rows, 10**9) == cuts


def test_cuts_respect_the_bytes_that_the_footer_states() -> None:
    assert plan_cuts([RowGroup(100, 1000)], 256, 250) == [0, 25, 50, 75, 100]
    assert plan_cuts([RowGroup(10, 200), RowGroup(10, 200)], 256, 250) == [0, 10, 20]
    assert plan_cuts([RowGroup(2, 10_000)], 256, 250) == [0, 1, 2]


@pytest.mark.parametrize("row_group_size", [1, 7, 40, 1000])
def test_splits_hold_all_rows_in_order(tmp_path: Path, row_group_size: int) -> None:
    expected = table(100)
    pq.write_table(expected, tmp_path / "a.parquet", row_group_size=row_group_size)
    splits = read(tmp_path, split_rows=16)
    assert pa.concat_tables([table_of(raw) for raw in splits]).combine_chunks().equals(expected.combine_chunks())
    assert [raw.split_id for raw in splits] == [f"00000-{i:05d}" for i in range(len(splits))]
    assert [raw.row_start for raw in splits] == [sum(s.rows for s in splits[:i]) for i in range(len(splits))]
    assert all(raw.rows <= 16 for raw in splits)
    assert [raw.last for raw in splits] == [False] * (len(splits) - 1) + [True]


def test_a_large_file_becomes_several_sources_that_begin_and_end_between_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polar_ray.data.sources.SOURCE_BYTES", 1)
    expected = table(100)
    pq.write_table(expected, tmp_path / "a.parquet", row_group_size=30)
    config = Input(path=str(tmp_path), split_rows=20)
    sources = plan_sources(list_input(config), config)
    assert [(source.row_start, source.row_stop) for source in sources] == [(0, 30), (30, 60), (60, 90), (90, 100)]
    assert [source.splits for source in sources] == [2, 2, 2, 1]
    assert [source.last for source in sources] == [False, False, False, True]
    splits = [raw for source in sources for raw in read_source(source, config)]
    assert [raw.split_index for raw in splits] == list(range(7))
    assert [raw.last for raw in splits] == [False] * 6 + [True]
    assert pa.concat_tables([table_of(raw) for raw in splits]).combine_chunks().equals(expected.combine_chunks())


def test_committed_splits_are_left_out(tmp_path: Path) -> None:
    pq.write_table(table(100), tmp_path / "a.parquet")
    kept = read(tmp_path, split_rows=25, skip=frozenset(["00000-00000", "00000-00002"]))
    assert [(raw.split_id, raw.row_start, raw.rows) for raw in kept] == [
        ("00000-00001", 25, 25),
        ("00000-00003", 75, 25),
    ]
    assert read(tmp_path, split_rows=50, skip=frozenset(["00000-00000", "00000-00001"])) == []


def test_a_file_without_rows_has_one_split_of_no_rows(tmp_path: Path, read_input: ReadInput) -> None:
    pq.write_table(table(0), tmp_path / "a.parquet")
    result = read_input(Input(path=str(tmp_path)))
    assert [(raw.rows, raw.last) for raw in result.raws] == [(0, True)]
    assert result.groups.num_rows == 0


@pytest.mark.parametrize("content", [b"", b"this is no parquet file", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_a_file_whose_footer_is_broken_is_one_dead_letter(
    tmp_path: Path, read_input: ReadInput, content: bytes
) -> None:
    (tmp_path / "a.parquet").write_bytes(content)
    pq.write_table(table(3), tmp_path / "b.parquet")
    result = read_input(Input(path=str(tmp_path)))
    assert result.reasons == [(0, "unreadable")]
    assert result.groups.num_rows == 3


def test_a_broken_page_costs_the_rest_of_its_splits_and_no_other(tmp_path: Path, read_input: ReadInput) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table(90), path, row_group_size=30, compression="zstd", use_dictionary=False)
    column = pq.read_metadata(path).row_group(1).column(1)
    data = bytearray(path.read_bytes())
    start = column.data_page_offset
    data[start : start + column.total_compressed_size] = os.urandom(column.total_compressed_size)
    path.write_bytes(data)
    result = read_input(Input(path=str(path), split_rows=15))
    assert result.input_rows == [*range(30), *range(60, 90)]
    assert result.reasons == [(30, "unreadable"), (45, "unreadable")]
    assert [raw.split_id for raw in result.raws] == [f"00000-{i:05d}" for i in range(6)]


@pytest.mark.parametrize("row_group_size", [1, 4, 5, 1000])
@pytest.mark.parametrize("source_bytes", [1, 10**9])
@pytest.mark.parametrize("key", ["prompt_id", "prompt"])
def test_a_prompt_is_never_cut(
    tmp_path: Path,
    read_input: ReadInput,
    monkeypatch: pytest.MonkeyPatch,
    row_group_size: int,
    source_bytes: int,
    key: str,
) -> None:
    monkeypatch.setattr("polar_ray.data.sources.SOURCE_BYTES", source_bytes)
    prompts = [3, 3, 1, 7, 2, 2, 9, 1, 1, 1]
    content = candidate_table(prompts)
    if key == "prompt":
        content = content.drop_columns(["prompt_id"])
    pq.write_table(content, tmp_path / "a.parquet", row_group_size=row_group_size)
    result = read_input(Input(path=str(tmp_path), layout="candidates", split_rows=4))
    assert [len(candidates) for candidates in result.groups["candidates"].to_pylist()] == prompts
    assert [m["content"] for g in result.groups.to_pylist() for c in g["candidates"] for m in c["messages"]] == [
        f"m{n}" for n in range(30)
    ]
    assert result.dead_letters == []
    assert sum(raw.rows for raw in result.raws) == 30


def test_a_split_in_which_no_prompt_starts_is_empty(tmp_path: Path, read_input: ReadInput) -> None:
    pq.write_table(candidate_table([20, 2]), tmp_path / "a.parquet", row_group_size=5)
    result = read_input(Input(path=str(tmp_path), layout="candidates", split_rows=5))
    assert [raw.rows for raw in result.raws] == [20, 0, 0, 0, 2]
    assert [raw.last for raw in result.raws] == [False, False, False, False, True]


@pytest.mark.parametrize("source_bytes", [1, 10**9])
def test_rows_without_an_id_belong_to_the_split_of_the_prompt_before(
    tmp_path: Path, read_input: ReadInput, monkeypatch: pytest.MonkeyPatch, source_bytes: int
) -> None:
    monkeypatch.setattr("polar_ray.data.sources.SOURCE_BYTES", source_bytes)
    ids = [None, None, "a", None, None, "a", "b", None, "c", None]
    content = pa.table({"prompt_id": ids, "prompt": ["q"] * 10, "messages": [f"m{i}" for i in range(10)]})
    pq.write_table(content, tmp_path / "a.parquet", row_group_size=2)
    result = read_input(Input(path=str(tmp_path), layout="candidates", split_rows=2))
    assert result.groups["prompt_id"].to_pylist() == ["a", "b", "c"]
    assert [row for row, _ in result.reasons] == [0, 1, 3, 4, 7, 9]
    assert sum(raw.rows for raw in result.raws) == 10


@pytest.mark.parametrize("source_bytes", [1, 10**9])
def test_a_broken_page_costs_the_prompts_that_it_touches_and_no_other(
    tmp_path: Path, read_input: ReadInput, monkeypatch: pytest.MonkeyPatch, source_bytes: int
) -> None:
    monkeypatch.setattr("polar_ray.data.sources.SOURCE_BYTES", source_bytes)
    path = tmp_path / "a.parquet"
    pq.write_table(candidate_table([4] * 12), path, row_group_size=10, compression="zstd", use_dictionary=False)
    column = pq.read_metadata(path).row_group(2).column(2)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = os.urandom(
        column.total_compressed_size
    )
    path.write_bytes(data)
    result = read_input(Input(path=str(path), layout="candidates", split_rows=5))
    messages = [m["content"] for g in result.groups.to_pylist() for c in g["candidates"] for m in c["messages"]]
    assert messages == [f"m{n}" for n in [*range(20), *range(32, 48)]], "rows 28 to 31 are one prompt"
    assert result.reasons == [(20, "unreadable"), (28, "unreadable")]


def test_parquet_is_read_from_an_object_store(bucket: str) -> None:
    storage = Storage.of(f"s3://{bucket}")
    with storage.open_atomic(storage.join("a.parquet")) as stream:
        pq.write_table(table(100), stream, row_group_size=30)
    splits = read(f"s3://{bucket}/*.parquet", split_rows=20)
    assert pa.concat_tables([table_of(raw) for raw in splits]).combine_chunks().equals(table(100).combine_chunks())


MESSAGE = {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    "type_",
    [
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        pa.large_list(pa.struct({"content": pa.large_string(), "role": pa.dictionary(pa.int8(), pa.string())})),
        pa.list_(pa.struct({"role": pa.string(), "content": pa.string(), "name": pa.string()})),
        pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}), 1),
    ],
    ids=str,
)
def test_a_text_column_may_have_any_arrow_type(tmp_path: Path, read_input: ReadInput, type_: pa.DataType) -> None:
    value: Any = [{"role": "user", "content": "a"}] if "list" in str(type_) else "a"
    content = pa.table(
        {
            "prompt_id": pa.array([1, 2], pa.uint8()),
            "prompt": pa.array([value, value], type_),
            "reference": pa.array([value, None], type_),
            "candidates": pa.array([["x"], ["y"]], pa.large_list(pa.large_string())),
        }
    )
    pq.write_table(content, tmp_path / "a.parquet")
    groups = read_input(Input(path=str(tmp_path))).groups.to_pylist()
    assert [group["prompt_id"] for group in groups] == ["1", "2"]
    assert [group["prompt"] for group in groups] == [[{"role": "user", "content": "a"}]] * 2
    assert [len(group["references"]) for group in groups] == [1, 0]


def test_columns_of_a_wrong_type_make_every_row_a_dead_letter(tmp_path: Path, read_input: ReadInput) -> None:
    pq.write_table(pa.table({"prompt": [1, 2], "candidates": [["a"], ["b"]]}), tmp_path / "a.parquet")
    assert read_input(Input(path=str(tmp_path))).reasons == [(0, "prompt_type"), (1, "prompt_type")]


def test_a_string_that_is_not_utf8_makes_its_row_a_dead_letter(tmp_path: Path, read_input: ReadInput) -> None:
    texts = pa.array([b"good", b"b\xffd", b"fine"], pa.binary()).view(pa.string())
    content = pa.table({"prompt_id": ["a", "b", "c"], "prompt": texts, "candidates": [["x"]] * 3})
    pq.write_table(content, tmp_path / "a.parquet")
    result = read_input(Input(path=str(tmp_path)))
    assert result.input_rows == [0, 2]
    assert result.reasons == [(1, "invalid_utf8")]
    assert result.dead_letters[0]["raw"] == b'{"prompt_id":"b","prompt":"b\xffd","candidates":["x"]}'


def test_two_columns_of_the_same_name_make_every_row_a_dead_letter(tmp_path: Path, read_input: ReadInput) -> None:
    content = pa.Table.from_arrays(
        [pa.array(["q"]), pa.array(["r"]), pa.array([["x"]])], ["prompt", "prompt", "candidates"]
    )
    pq.write_table(content, tmp_path / "a.parquet")
    assert read_input(Input(path=str(tmp_path))).reasons == [(0, "duplicate_key")]


def test_values_without_a_form_in_json_are_converted_in_extra(tmp_path: Path, read_input: ReadInput) -> None:
    content = pa.table(
        {
            "prompt": ["q"],
            "candidates": [["x"]],
            "binary": pa.array([b"\x00\xff"]),
            "date": pa.array([datetime.date(2025, 1, 2)]),
            "decimal": pa.array(["1.10"]).cast(pa.decimal128(5, 2)),
            "duration": pa.array([datetime.timedelta(seconds=90)]),
            "floats": pa.array([[1.5, float("nan"), float("inf"), 1e300, 0.1]]),
            "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
            "time": pa.array([datetime.datetime(2025, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)]),
            "unsigned": pa.array([2**64 - 1], pa.uint64()),
        }
    )
    pq.write_table(content, tmp_path / "a.parquet")
    assert read_input(Input(path=str(tmp_path))).groups["extra"].to_pylist() == [
        '{"binary":"AP8=","date":"2025-01-02","decimal":"1.10","duration":90.0,"floats":[1.5,null,null,1e+300,0.1],'
        '"map":[["k",1]],"time":"2025-01-02T03:04:05+00:00","unsigned":18446744073709551615}'
    ]
