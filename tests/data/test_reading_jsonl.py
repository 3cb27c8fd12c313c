import gzip
import io
import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polar_ray.data.lines import BLANKS_COUNT, KEPT_BYTES, READING, Lines
from polar_ray.data.listing import list_input
from polar_ray.data.parsing import parse_split
from polar_ray.data.raw_split import RawSplit
from polar_ray.data.reading import read_source
from polar_ray.data.sources import plan_sources
from polar_ray.data.storage import Storage
from polar_ray.recipe.input import Input

ReadInput = Callable[..., Any]


def rows(count: int, seed: int = 0) -> list[bytes]:
    """Lines that do not compress well, so that a compressed file has many blocks."""
    rng = random.Random(seed)
    return [
        json.dumps({"prompt_id": i, "prompt": rng.randbytes(rng.randrange(1000)).hex(), "candidates": ["x"]}).encode()
        for i in range(count)
    ]


def read(path: Path | str, **options: Any) -> list[RawSplit]:
    config = Input(path=str(path), **options)
    return [raw for source in plan_sources(list_input(config), config) for raw in read_source(source, config)]


def lines_of(raw: RawSplit) -> list[bytes]:
    bounds = raw.offsets.tolist()
    assert bounds[0] == 0
    assert bounds[-1] == len(raw.payload)
    return [raw.payload[start:stop] for start, stop in pairwise(bounds)]


def compressed(kind: str, data: bytes, pieces: int) -> bytes:
    """The data as several gzip members or zstd frames, one after another."""
    size = -(-len(data) // pieces)
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    if kind == "gz":
        return b"".join(gzip.compress(part) for part in parts)
    if kind == "zst":
        return b"".join(zstandard.compress(part) for part in parts)
    return data


def test_a_split_has_at_most_split_rows_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"1\n22\r\n4444\n333\n4\n")
    splits = read(tmp_path, split_rows=2)
    assert [lines_of(split) for split in splits] == [[b"1\n", b"22\r\n"], [b"4444\n", b"333\n"], [b"4\n"]]
    assert [split.split_id for split in splits] == ["00000-00000", "00000-00001", "00000-00002"]
    assert [(split.row_start, split.rows, split.last) for split in splits] == [
        (0, 2, False),
        (2, 2, False),
        (4, 1, True),
    ]
    assert {split.kind for split in splits} == {"jsonl"}


def test_blank_lines_are_counted_and_fill_no_split(tmp_path: Path, read_input: ReadInput) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n\n1\n \t\n22\r\n\r\n\n333\n\n \n\n")
    splits = read(tmp_path, split_rows=2, split_bytes=8)
    assert [lines_of(split) for split in splits] == [[b"1\n", b"22\r\n"], [b"333\n"]]
    assert [split.numbers.tolist() for split in splits] == [[2, 4], [7]]
    assert [(split.row_start, split.rows, split.last) for split in splits] == [(0, 5, False), (5, 6, True)]
    assert sum(split.input_bytes for split in splits) == (tmp_path / "a.jsonl").stat().st_size
    result = read_input(Input(path=str(tmp_path), split_rows=2))
    assert [split.drops for split in result.parsed] == [{"blank_line": 3}, {"blank_line": 5}]
    assert result.reasons == [(2, "not_an_object"), (4, "not_an_object"), (7, "not_an_object")]


def test_a_few_kilobytes_of_blank_lines_are_one_split(tmp_path: Path, read_input: ReadInput) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(b"\n" * 20_000_000 + b"{}\n" + b" \n" * 1_000_000))
    result = read_input(Input(path=str(tmp_path)))
    assert [(raw.rows, len(raw.payload)) for raw in result.raws] == [(21_000_001, 3)]
    assert [split.drops for split in result.parsed] == [{"blank_line": 21_000_000}]
    assert [row for row, _ in result.reasons] == [20_000_000]


def test_a_run_that_was_begun_when_blank_lines_filled_splits_is_read_in_the_same_splits(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"1\n\n\n22\n \n")
    config = Input(path=str(tmp_path), split_rows=2)
    (source,) = plan_sources(list_input(config), config, reading=BLANKS_COUNT)
    splits = list(read_source(source, config))
    assert [lines_of(split) for split in splits] == [[b"1\n", b"\n"], [b"\n", b"22\n"], [b" \n"]]
    assert [split.numbers.tolist() for split in splits] == [[0, 1], [2, 3], [4]]
    assert [parse_split(split, config).drops for split in splits] == [{"blank_line": 1}] * 3


def test_a_line_that_is_too_long_is_a_dead_letter_with_its_beginning(tmp_path: Path, read_input: ReadInput) -> None:
    lines = rows(5)
    # Cut where a whole object ends, it must not be taken for a row.
    lines[1:1] = [b'{"prompt_id": "cut", "prompt": "q", "candidates": ["x"]}' + b" " * 3_000_000]
    lines.append(b"x" * 2_000_001)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    result = read_input(Input(path=str(tmp_path), max_line_bytes=2_000_000, split_bytes=500_000))
    assert result.input_rows == [0, 2, 3, 4, 5]
    assert result.reasons == [(1, "line_too_long"), (6, "line_too_long")]
    assert [letter["stage"] for letter in result.dead_letters] == ["read", "read"]
    assert [letter["raw"] for letter in result.dead_letters] == [lines[1][:1000], b"x" * 1000]
    assert "3,000,056 bytes, more than input.max_line_bytes" in result.dead_letters[0]["message"]


def test_a_line_as_long_as_allowed_is_read(tmp_path: Path, read_input: ReadInput) -> None:
    line = rows(1)[0]
    (tmp_path / "a.jsonl").write_bytes(line + b"\n" + line)
    allowed = read_input(Input(path=str(tmp_path), max_line_bytes=len(line)))
    assert [reason for _, reason in allowed.reasons] == ["duplicate_row"]
    refused = read_input(Input(path=str(tmp_path), max_line_bytes=len(line) - 1))
    assert refused.reasons == [(0, "line_too_long"), (1, "line_too_long")]


def test_a_split_has_at_most_split_bytes_but_never_cuts_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"12\n45\n7890123456\n1\n2\n")
    splits = read(tmp_path, split_bytes=6)
    assert [split.payload for split in splits] == [b"12\n45\n", b"7890123456\n", b"1\n2\n"]
    assert [split.last for split in splits] == [False, False, True]


@pytest.mark.parametrize("data", [b"1\n2", b"1\n2\n"])
def test_the_last_line_may_lack_its_end(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    (split,) = read(tmp_path)
    assert [line.strip() for line in lines_of(split)] == [b"1", b"2"]
    assert [raw.last for raw in read(tmp_path, split_rows=1)] == [False, True]
    assert [raw.last for raw in read(tmp_path, split_rows=2)] == [True]


def test_an_empty_file_has_one_split_of_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    (split,) = read(tmp_path)
    assert (split.rows, split.last, split.error) == (0, True, None)


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    line = '"a\u2028b\u2029c\x85d"'.encode() + b"\x0b\x0c\r\x1c\n"
    (tmp_path / "a.jsonl").write_bytes(line * 3)
    assert lines_of(read(tmp_path)[0]) == [line] * 3


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_compressed_file_gives_the_same_splits_as_the_plain_one(tmp_path: Path, kind: str, pieces: int) -> None:
    data = b"\n".join(rows(3000))
    plain, packed = tmp_path / "plain.jsonl", tmp_path / f"packed.jsonl.{kind}"
    plain.write_bytes(data)
    packed.write_bytes(compressed(kind, data, pieces))
    expected = read(plain, split_rows=700, split_bytes=500_000)
    splits = read(packed, split_rows=700, split_bytes=500_000)
    assert len(splits) > 5
    assert [split.payload for split in splits] == [split.payload for split in expected]
    assert [split.last for split in splits] == [split.last for split in expected]


def test_skippable_zstd_frames_are_skipped(tmp_path: Path) -> None:
    frame = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    (tmp_path / "a.jsonl.zst").write_bytes(frame + zstandard.compress(b"1\n") + frame)
    assert read(tmp_path)[0].payload == b"1\n"


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_a_cut_file_gives_its_beginning_and_one_dead_letter(tmp_path: Path, read_input: ReadInput, kind: str) -> None:
    lines = rows(4000)
    data = b"\n".join(lines) + b"\n"
    packed = compressed(kind, data, 2)
    path = tmp_path / f"a.jsonl.{kind}"
    path.write_bytes(packed[: len(packed) * 3 // 4])
    result = read_input(Input(path=str(path), split_rows=500))
    good = result.input_rows
    assert good == list(range(len(good)))
    assert len(good) >= 2700, "only the last decompressed block is lost"
    assert result.reasons == [(len(good), "unreadable")]
    (letter,) = result.dead_letters
    assert letter["stage"] == "read"
    assert lines[len(good)].startswith(letter["raw"]), "the readable beginning of the broken row is kept"
    assert [raw.last for raw in result.raws] == [False] * (len(result.raws) - 1) + [True]


@pytest.mark.parametrize("kind", ["gz", "zst"])
def test_garbage_after_the_data_is_one_dead_letter(tmp_path: Path, read_input: ReadInput, kind: str) -> None:
    data = b"\n".join(rows(50)) + b"\n"
    (tmp_path / f"a.jsonl.{kind}").write_bytes(compressed(kind, data, 2) + b"garbage")
    result = read_input(Input(path=str(tmp_path)))
    assert result.input_rows == list(range(50))
    assert result.reasons == [(50, "unreadable")]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_file_that_is_not_compressed_as_its_name_says_is_one_dead_letter(
    tmp_path: Path, read_input: ReadInput, name: str
) -> None:
    (tmp_path / name).write_bytes(b"\n".join(rows(50)))
    assert read_input(Input(path=str(tmp_path))).reasons == [(0, "unreadable")]


class FailingStream(io.BytesIO):
    """A connection that breaks after 1000 bytes."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= 1000:
            raise OSError("connection reset")
        return super().read(1000)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.zst", "jsonl.gz"])
def test_a_storage_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    data = compressed(kind.removeprefix("jsonl").removeprefix("."), b"\n".join(rows(50)), 1)
    (tmp_path / f"a.{kind}").write_bytes(data)
    monkeypatch.setattr(Storage, "open_input", lambda self, path: pa.PythonFile(FailingStream(data), mode="r"))
    with pytest.raises(OSError, match="connection reset"):
        read(tmp_path)


def test_committed_splits_are_left_out_and_the_others_are_unchanged(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(b"\n".join(rows(100))))
    config = Input(path=str(tmp_path), split_rows=10)
    (source,) = plan_sources(list_input(config), config)
    everything = list(read_source(source, config))
    skip = {"00000-00000", "00000-00003", "00000-00009"}
    rest = list(read_source(source, config, skip))
    expected = [split for split in everything if split.split_id not in skip]
    assert [(split.split_id, split.row_start, split.payload) for split in rest] == [
        (split.split_id, split.row_start, split.payload) for split in expected
    ]


def test_splits_are_read_from_an_object_store(bucket: str) -> None:
    data = b"\n".join(rows(2000))
    storage = Storage.of(f"s3://{bucket}")
    storage.write_atomic(storage.join("in/a.jsonl.zst"), compressed("zst", data, 2))
    storage.write_atomic(storage.join("in/b.jsonl"), data)
    splits = read(f"s3://{bucket}/in", split_rows=300)
    payload = {
        name: b"".join(s.payload for s in splits if s.file.endswith(name)) for name in ("a.jsonl.zst", "b.jsonl")
    }
    assert payload == {"a.jsonl.zst": data, "b.jsonl": data}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    texts=st.lists(st.text("x ", max_size=12).map(str.encode), max_size=30),
    final_newline=st.booleans(),
    split_rows=st.integers(1, 6),
    split_bytes=st.integers(1, 30),
    line_bytes=st.sampled_from([3, 8, 1000]),
    reading=st.sampled_from([BLANKS_COUNT, READING]),
    data=st.data(),
)
def test_how_bytes_arrive_does_not_change_the_splits(
    texts: list[bytes],
    final_newline: bool,
    split_rows: int,
    split_bytes: int,
    line_bytes: int,
    reading: int,
    data: st.DataObject,
) -> None:
    text = b"\n".join(texts) + (b"\n" if final_newline else b"")

    def split(chunks: list[bytes]) -> list[tuple[bytes, list[int], int, int]]:
        lines = Lines(split_rows, split_bytes, line_bytes=line_bytes, reading=reading)
        out = []
        for chunk in chunks:
            lines.add(chunk)
            while (count := lines.next_split()) is not None:
                out.append(lines.take(count, copy=True))
        lines.finish()
        while (count := lines.next_split(ended=True)) is not None:
            out.append(lines.take(count, copy=True))
        out.append(lines.take(lines.complete, copy=True, last=True))
        return [(each.payload, each.numbers.tolist(), each.rows, each.input_bytes) for each in out]

    def plainly() -> list[tuple[bytes, list[int], int, int]]:
        out: list[list[int]] = [[]]
        lines = text.splitlines(keepends=True)
        for number, line in enumerate(lines):
            if reading == READING and line.isspace():
                continue
            if out[-1] and (
                len(out[-1]) == split_rows or sum(len(lines[other]) for other in out[-1]) + len(line) > split_bytes
            ):
                out.append([])
            out[-1].append(number)
        ends = [*(numbers[-1] + 1 for numbers in out[:-1]), len(lines)]
        return [
            (
                b"".join(held(lines[number], line_bytes) for number in numbers),
                numbers,
                end - start,
                sum(map(len, lines[start:end])),
            )
            for numbers, start, end in zip(out, [0, *ends], ends, strict=False)
        ]

    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    chunks = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True) if stop > start]
    assert split(chunks) == plainly()


def held(line: bytes, line_bytes: int) -> bytes:
    content = line.removesuffix(b"\n")
    if len(content) <= line_bytes:
        return line
    return content[: min(line_bytes, KEPT_BYTES)] + line[len(content) :]


def candidate_lines(prompts: list[int]) -> list[bytes]:
    """One line per candidate: ``prompts`` says how many candidates each prompt has."""
    return [
        json.dumps({"prompt_id": i, "prompt": f"q{i}", "candidate_id": str(j), "messages": "x"}).encode()
        for i, count in enumerate(prompts)
        for j in range(count)
    ]


@pytest.mark.parametrize("with_ids", [True, False])
def test_a_prompt_is_never_cut(tmp_path: Path, read_input: ReadInput, with_ids: bool) -> None:
    lines = candidate_lines([3, 3, 1, 7, 2, 2])
    if not with_ids:
        lines = [line.replace(b"prompt_id", b"_id") for line in lines]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    result = read_input(Input(path=str(tmp_path), layout="candidates", split_rows=4))
    assert [raw.rows for raw in result.raws] == [6, 8, 4]
    assert [len(candidates) for candidates in result.groups["candidates"].to_pylist()] == [3, 3, 1, 7, 2, 2]
    assert result.dead_letters == []


def test_a_line_that_is_no_candidate_does_not_end_a_prompt(tmp_path: Path, read_input: ReadInput) -> None:
    lines = candidate_lines([3, 2])
    lines[1:1] = [b"", b"{broken", lines[3].replace(b'"x"', b"null")]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    result = read_input(Input(path=str(tmp_path), layout="candidates", split_rows=1))
    assert [raw.rows for raw in result.raws] == [6, 2]
    assert result.reasons == [(2, "invalid_json"), (3, "messages_null")]
    assert result.input_rows == [0, 6]


def test_a_prompt_longer_than_a_chunk_is_kept_whole(tmp_path: Path, read_input: ReadInput) -> None:
    lines = [
        json.dumps({"prompt_id": i, "prompt": "q", "candidate_id": str(j), "messages": "x" * 30_000}).encode()
        for i in range(2)
        for j in range(80)
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    result = read_input(Input(path=str(tmp_path), layout="candidates", split_rows=7))
    assert [raw.rows for raw in result.raws] == [80, 80]
