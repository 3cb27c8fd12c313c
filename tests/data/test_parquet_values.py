"""What a Parquet column may hold that no JSONL file and no type of Python can: no value of it ends a run."""

import datetime
import decimal
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_ray.data.parquet_json import json_texts
from polar_ray.data.scattered import parse_candidate_rows
from polar_ray.recipe.input import Input

ReadInput = Callable[..., Any]
LATE_S = int((datetime.datetime(9999, 12, 31, 23, 59, 59) - datetime.datetime(1970, 1, 1)).total_seconds()) + 1
LAYOUTS = ["groups", "candidates"]


def written(folder: Path, **columns: Any) -> str:
    """Writes three rows that are fine in each layout, but for the columns that are given; one of None is left out."""
    fine = {
        "prompt_id": pa.array(["p0", "p1", "p2"]),
        "prompt": pa.array(["q", "r", "s"]),
        "candidates": pa.array([["a", "b"]] * 3),
        "messages": pa.array(["a", "b", "c"]),
    }
    path = folder / "rows.parquet"
    pq.write_table(pa.table({name: column for name, column in {**fine, **columns}.items() if column is not None}), path)
    return str(path)


def reasons_when_scattered(read: Any, path: str) -> list[tuple[int, str]]:
    """Returns the dead letters of the same rows in the layout that is shuffled."""
    config = Input(path=path, layout="scattered")
    letters = [letter for raw in read.raws for letter in parse_candidate_rows(raw, config, 2).dead_letters.to_pylist()]
    return [(letter["row"], letter["reason"]) for letter in letters]


def numbers(type_: pa.DataType, *values: int) -> pa.Array:
    width = pa.int32() if type_.bit_width == 32 else pa.int64()
    return pa.array(values, width).view(type_)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (
            numbers(pa.timestamp("us"), 0, LATE_S * 10**6 - 1, LATE_S * 10**6),
            ["1970-01-01T00:00:00", "9999-12-31T23:59:59.999999", f"{LATE_S * 10**6} us"],
        ),
        (
            numbers(pa.timestamp("us", "UTC"), 0, 2**62, -(2**63)),
            ["1970-01-01T00:00:00+00:00", f"{2**62} us", f"{-(2**63)} us"],
        ),
        (
            # The last second of 9999 in UTC is in the year 10000 there.
            numbers(pa.timestamp("us", "+14:00"), 0, LATE_S * 10**6 - 10**6, 1),
            ["1970-01-01T14:00:00+14:00", "9999-12-31T23:59:59+00:00", "1970-01-01T14:00:00.000001+14:00"],
        ),
        (
            numbers(pa.timestamp("ms", "Mars/Phobos"), 0, 1, LATE_S * 1000),
            ["1970-01-01T00:00:00+00:00", "1970-01-01T00:00:00.001000+00:00", f"{LATE_S * 1000} ms"],
        ),
        (numbers(pa.date32(), 0, 2**31 - 1, -(2**31)), ["1970-01-01", "2147483647 days", "-2147483648 days"]),
        # Parquet keeps days of it.
        (numbers(pa.date64(), 0, 10**8 * 86_400_000, 86_400_000), ["1970-01-01", f"{10**8} days", "1970-01-02"]),
        (numbers(pa.time32("ms"), 0, -1, 86_400_000), ["00:00:00", "23:59:59.999000", "00:00:00"]),
        (numbers(pa.time64("us"), 0, -1, 10**18), ["00:00:00", "23:59:59.999999", f"{10**18} us"]),
        (numbers(pa.duration("s"), 90, 2**62, -(2**62)), [90.0, f"{2**62} s", f"{-(2**62)} s"]),
        (
            pa.ListArray.from_arrays([0, 0, 1, 3], numbers(pa.date32(), 0, 2**30, 1)),
            [[], ["1970-01-01"], ["1073741824 days", "1970-01-02"]],
        ),
        (
            pa.StructArray.from_arrays(
                [numbers(pa.date32(), 0, 2**30, 1), pa.array([decimal.Decimal("1.50"), None, None])], names=["b", "a"]
            ),
            [
                {"a": "1.50", "b": "1970-01-01"},
                {"a": None, "b": "1073741824 days"},
                {"a": None, "b": "1970-01-02"},
            ],
        ),
        (
            pa.MapArray.from_arrays([0, 1, 2, 3], ["x", "y", "z"], numbers(pa.date32(), 0, 2**30, 1)),
            [[["x", "1970-01-01"]], [["y", "1073741824 days"]], [["z", "1970-01-02"]]],
        ),
        (
            pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), numbers(pa.date32(), 0, 2**30)),
            ["1970-01-01", "1073741824 days", "1970-01-01"],
        ),
    ],
    ids=lambda case: str(case.type) if isinstance(case, pa.Array) else "",
)
def test_a_time_that_python_has_not_is_its_number_and_unit(
    column: pa.Array, expected: list[Any], tmp_path: Path, read_input: ReadInput
) -> None:
    path = written(tmp_path, x=column)
    for layout in LAYOUTS:
        read = read_input(Input(path=path, layout=layout))
        assert read.reasons == []
        if layout == "groups":
            assert [json.loads(extra)["x"] for extra in read.groups["extra"].to_pylist()] == expected
    assert reasons_when_scattered(read, path) == []


TIMES = [
    *(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Asia/Tokyo", "no/such")),
    *(pa.duration(unit) for unit in ("s", "ms", "us", "ns")),
    *(pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"), pa.date32(), pa.date64()),
]


@given(type_=st.sampled_from(TIMES), data=st.data())
@settings(max_examples=400, deadline=None)
def test_whatever_bits_a_time_has_it_has_a_text_of_its_own(type_: pa.DataType, data: st.DataObject) -> None:
    bound = 2 ** (type_.bit_width - 1)
    values = data.draw(st.lists(st.one_of(st.none(), st.integers(-bound, bound - 1)), min_size=1, max_size=4))
    width = pa.int32() if type_.bit_width == 32 else pa.int64()
    column = pa.array(values, width).view(type_)
    texts = json_texts(column)
    assert [json.loads(text) is None for text in texts] == [value is None for value in values]
    # A value says the same whatever its neighbours are.
    assert texts == [text for i in range(len(column)) for text in json_texts(column.slice(i, 1))]


BYTES = [b"\xff\xfe", b"fine", b"\xed\xa0\x80"]


def no_text(type_: pa.DataType) -> pa.Array:
    """Returns strings of which only the second one is UTF-8, as a damaged file may hold them."""
    stored = pa.array(BYTES, pa.large_binary() if type_ == pa.large_string() else pa.binary())
    return pa.Array.from_buffers(type_, 3, stored.buffers())


def nested(values: pa.Array) -> dict[str, pa.Array]:
    each = [0, 1, 2, 3]
    return {
        "plain": values,
        "list": pa.ListArray.from_arrays(each, values),
        "large_list": pa.LargeListArray.from_arrays(pa.array(each, pa.int64()), values),
        "fixed_size_list": pa.FixedSizeListArray.from_arrays(values, 1),
        "struct": pa.StructArray.from_arrays([values, pa.array([1, 2, 3])], names=["text", "number"]),
        "map": pa.MapArray.from_arrays(each, values, pa.array([1, 2, 3])),
        "map_of_values": pa.MapArray.from_arrays(each, pa.array(["a", "b", "c"]), values),
        "list_of_structs": pa.ListArray.from_arrays(each, pa.StructArray.from_arrays([values], names=["text"])),
    }


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string()], ids=str)
@pytest.mark.parametrize("name", list(nested(pa.array(["a", "b", "c"]))))
def test_bytes_that_are_no_text_make_a_dead_letter_of_their_row_alone(
    name: str, type_: pa.DataType, tmp_path: Path, read_input: ReadInput
) -> None:
    path = written(tmp_path, x=nested(no_text(type_))[name], binary=pa.array([b"\xff", b"\xfe", None]))
    for layout in LAYOUTS:
        read = read_input(Input(path=path, layout=layout))
        assert read.reasons == [(0, "invalid_utf8"), (2, "invalid_utf8")]
        assert BYTES[0] in read.dead_letters[0]["raw"]
        assert read.groups["prompt_id"].to_pylist() == ["p1"]
        if layout == "groups":
            # The row beside them has what it would have without them.
            assert json.loads(read.groups["extra"][0].as_py())["binary"] == "/g=="
    assert reasons_when_scattered(read, path) == read.reasons


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string()], ids=str)
@pytest.mark.parametrize("column", ["prompt_id", "prompt"])
def test_a_prompt_that_is_no_text_does_not_keep_a_split_from_ending_where_a_prompt_does(
    column: str, type_: pa.DataType, tmp_path: Path, read_input: ReadInput
) -> None:
    absent = {"prompt_id": None} if column == "prompt" else {}
    path = written(tmp_path, **{**absent, column: no_text(type_)})
    read = read_input(Input(path=path, layout="candidates", split_rows=1))
    assert len(read.raws) == 3
    assert read.reasons == [(0, "invalid_utf8"), (2, "invalid_utf8")]
    assert read.input_rows == [1]


def twice(name: str, **fields: list[Any]) -> pa.StructArray:
    """Returns structs with two fields of one name, whose values cannot be ordered."""
    names = [*fields, name, name]
    return pa.StructArray.from_arrays([*map(pa.array, fields.values()), ["one"] * 3, pa.array([[1]] * 3)], names=names)


EACH = [0, 1, 2, 3]
ROLES = ["user", "user", "user"]


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": pa.ListArray.from_arrays(EACH, twice("content", role=ROLES))},
        {"messages": pa.ListArray.from_arrays(EACH, twice("content", role=ROLES))},
        {"candidates": pa.ListArray.from_arrays(EACH, twice("messages"))},
        {"reference": pa.ListArray.from_arrays(EACH, twice("role", content=ROLES))},
        {"labels": pa.ListArray.from_arrays(EACH, twice("kind"))},
        {"x": twice("a", b=[1, 2, 3])},
        {"x": pa.ListArray.from_arrays(EACH, twice("a"))},
        {"x": pa.MapArray.from_arrays(EACH, ["k"] * 3, twice("a"))},
    ],
    ids=lambda columns: f"{next(iter(columns))} {next(iter(columns.values())).type}",
)
def test_two_fields_of_one_name_are_a_duplicate_key_as_in_jsonl(
    columns: dict[str, pa.Array], tmp_path: Path, read_input: ReadInput
) -> None:
    path = written(tmp_path, **columns)
    expected = [(row, "duplicate_key") for row in range(3)]
    for layout in LAYOUTS:
        read = read_input(Input(path=path, layout=layout))
        assert read.reasons == expected
        assert b'"one"' in read.dead_letters[0]["raw"]
        assert b"[1]" in read.dead_letters[0]["raw"]
    assert reasons_when_scattered(read, path) == expected
