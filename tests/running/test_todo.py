"""What is left of a run is what has no commit record, and a finished run has all its parts."""

from pathlib import Path

import pytest
from runs import commit

from polar_ray.data.listing import InputFile
from polar_ray.data.sources import Source
from polar_ray.errors import ConservationError
from polar_ray.recipe.input import Input
from polar_ray.running.folder import Commit, RunFolder
from polar_ray.running.todo import ScatteredTodo, Todo, todo_of


def jsonl(index: int, size: int = 100) -> Source:
    return Source(index, InputFile(f"f{index}.jsonl", size, None, 1.0, "jsonl", None))


def parquet(index: int, cuts: tuple[int, ...], split_start: int = 0, size: int = 100) -> Source:
    file = InputFile(f"f{index}.parquet", size, None, 1.0, "parquet", None)
    return Source(index, file, cuts[0], cuts[-1], split_start, cuts)


def record(file: int, split: int, *, last: bool = False, input_bytes: int = 10, part_bytes: int = 0) -> Commit:
    return commit(
        split_id=f"{file:05d}-{split:05d}",
        file_index=file,
        split_index=split,
        last=last,
        input_bytes=input_bytes,
        part_bytes=part_bytes,
    )


def by_id(*records: Commit) -> dict[str, Commit]:
    return {record.split_id: record for record in records}


def test_a_jsonl_file_is_done_when_its_last_split_and_all_before_it_are() -> None:
    todo = Todo([jsonl(0)], {})
    todo.add(record(0, 0))
    assert len(todo.sources()) == 1
    todo.add(record(0, 2, last=True))
    assert len(todo.sources()) == 1
    todo.add(record(0, 1))
    assert todo.sources() == []


def test_a_parquet_file_is_done_source_by_source() -> None:
    first, second = parquet(0, (0, 5, 10)), parquet(0, (10, 15), split_start=2)
    todo = Todo([first, second], by_id(record(0, 2, last=True)))
    assert todo.sources() == [first]
    todo.add(record(0, 0))
    assert todo.sources() == [first]
    todo.add(record(0, 1))
    assert todo.sources() == []


def test_files_are_kept_apart() -> None:
    sources = [jsonl(0), jsonl(1), parquet(2, (0, 4))]
    todo = Todo(sources, by_id(record(0, 0, last=True), record(2, 0, last=True)))
    assert todo.sources() == [sources[1]]
    assert todo.committed == {"00000-00000", "00002-00000"}


def test_a_commit_that_is_reported_twice_counts_once() -> None:
    todo = Todo([jsonl(0)], {})
    assert todo.add(record(0, 0)) == [record(0, 0)]
    assert todo.add(record(0, 0)) == []
    assert len(todo.commits) == 1


def test_the_share_that_is_done_goes_by_bytes() -> None:
    todo = Todo([jsonl(0, size=300), parquet(1, (0, 5, 10), size=100)], {})
    assert todo.done_share == 0
    todo.add(record(1, 0))
    assert todo.done_share == pytest.approx(0.5 * 100 / 400)
    todo.add(record(0, 0, input_bytes=150))
    assert todo.done_share == pytest.approx((50 + 150) / 400)
    todo.add(record(0, 1, input_bytes=150, last=True))
    todo.add(record(1, 1, last=True))
    assert todo.done_share == 1


def test_a_compressed_file_is_not_taken_for_done_before_its_last_split() -> None:
    todo = Todo([jsonl(0, size=100)], by_id(record(0, 0, input_bytes=5000)))
    assert 0.9 < todo.done_share < 1


def test_an_input_of_empty_files_is_done_as_far_as_bytes_go() -> None:
    assert Todo([jsonl(0, size=0)], {}).done_share == 1


def test_a_run_is_complete_when_every_part_has_the_size_that_was_committed(tmp_path: Path) -> None:
    folder = RunFolder.of(str(tmp_path))
    todo = Todo([jsonl(0)], by_id(record(0, 0, part_bytes=4), record(0, 1, last=True, part_bytes=5)))
    parts = [Path(folder.part(split)) for split in ("00000-00000", "00000-00001")]
    parts[0].parent.mkdir()
    parts[0].write_bytes(b"1234")
    for content in (None, b"123"):
        if content is not None:
            parts[1].write_bytes(content)
        with pytest.raises(ConservationError, match=r"\['00000-00001'\]"):
            todo.check_complete(folder)
    parts[1].write_bytes(b"12345")
    todo.check_complete(folder)


def test_a_run_with_a_source_that_is_not_read_is_not_complete(tmp_path: Path) -> None:
    with pytest.raises(ConservationError, match=r"splits are missing from 1 files \['f1\.jsonl'\]"):
        Todo([jsonl(0), jsonl(1)], by_id(record(0, 0, last=True))).check_complete(RunFolder.of(str(tmp_path)))


def read_record(split: int, rows: int, *, last: bool) -> Commit:
    return commit(
        split_id=f"00000-{split:05d}",
        split_index=split,
        last=last,
        rows=rows,
        rows_in_groups=0,
        dead_letters={"invalid_json": 1},
        drops={},
        part_bytes=0,
    )


def partition(index: int, rows_in_groups: int) -> Commit:
    return commit(split_id=f"scattered-{index:05d}", rows=0, rows_in_groups=rows_in_groups, dead_letters={}, drops={})


def test_scattered_input_is_done_when_every_row_that_was_read_has_ended_somewhere(tmp_path: Path) -> None:
    folder = RunFolder.of(str(tmp_path))
    todo = ScatteredTodo([jsonl(0)], by_id(read_record(0, 6, last=False)), partitions=4, folder=folder)
    assert todo.sources()
    todo.add(partition(0, 5))
    assert todo.sources(), "the file's last split has not been read"
    todo = ScatteredTodo([jsonl(0)], by_id(*todo.commits, read_record(1, 4, last=True)), 4, folder)
    assert todo.sources(), "three rows have not come out of the shuffle"
    assert todo.done_share == pytest.approx(1 / 4)
    todo.add(partition(3, 3))
    assert todo.sources() == [], "the two empty partitions are not waited for"


def test_the_layout_decides_what_is_waited_for(tmp_path: Path) -> None:
    folder = RunFolder.of(str(tmp_path))
    assert type(todo_of(Input(path="x"), [jsonl(0)], folder)) is Todo
    assert type(todo_of(Input(path="x", layout="scattered"), [jsonl(0)], folder)) is ScatteredTodo
