"""What a tick knows of those before it is written whole, and its damage is never a fresh start."""

from dataclasses import replace
from pathlib import Path

import pytest

from polar_ray.curating.state import REMEMBERED, Pending, State, Version, read_state, write_state
from polar_ray.curating.versions import remove
from polar_ray.data.storage import Storage
from polar_ray.data.versioned import encode
from polar_ray.errors import LeaseLost, StateError


def test_what_was_written_is_read(folder: Storage) -> None:
    state = State(
        versions=[Version("a", 1.5, ["a"])], pending=Pending("b", {"s3://bucket/x": {"size": 3, "mtime": "2.0"}})
    )
    write_state(folder, state, 1)
    assert read_state(folder) == state


def test_where_nothing_was_curated_the_state_is_empty(folder: Storage) -> None:
    assert read_state(folder) == State()


def test_a_tick_that_lost_its_lease_cannot_undo_what_its_successor_wrote(folder: Storage) -> None:
    write_state(folder, State(last_tick="by the first"), 1)
    write_state(folder, State(last_tick="by the second"), 2)
    with pytest.raises(LeaseLost, match=r"with the number 2, and this one has 1: it lost its lease"):
        write_state(folder, State(last_tick="by the first, asleep until now"), 1)
    assert read_state(folder).last_tick == "by the second"


def test_a_copy_of_a_state_is_not_taken_for_the_newest(folder: Storage) -> None:
    write_state(folder, State(last_tick="the newest"), 2)
    for name in ("backup.json", "000000000001 (copy).json", "9.json"):
        folder.write_atomic(folder.join("_curate", "state", name), encode(State(last_tick="old")))
    assert read_state(folder).last_tick == "the newest"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"schema": 1, "shards": {', "is damaged"),
        (b'{"schema": 1, "shards": []}', "is damaged"),
        (b"", "is damaged"),
        (b'{"schema": 2}', "has schema 2, and this version of polar_ray knows 1"),
    ],
)
def test_a_damaged_state_is_an_error_although_an_older_one_is_there(
    folder: Storage, content: bytes, message: str
) -> None:
    write_state(folder, State(), 1)
    folder.write_atomic(folder.join("_curate", "state", "000000000002.json"), content)
    with pytest.raises(StateError, match=message):
        read_state(folder)


def test_a_state_that_is_gone_although_there_are_runs_is_an_error(folder: Storage) -> None:
    folder.write_atomic(folder.join("runs", "x", "manifest.json"), b"{}")
    with pytest.raises(StateError, match="no state in _curate/state"):
        read_state(folder)


def test_old_states_are_forgotten(tmp_path: Path) -> None:
    out = Storage.of(str(tmp_path))
    for token in range(1, REMEMBERED + 4):
        write_state(out, State(last_tick=str(token)), token)
    assert len(list((tmp_path / "_curate" / "state").iterdir())) == REMEMBERED
    assert read_state(out).last_tick == str(REMEMBERED + 3)


def test_a_tick_that_is_overtaken_while_it_removes_versions_deletes_nothing_more(tmp_path: Path) -> None:
    out = Storage.of(str(tmp_path))
    names = ["versions/old/version.json", "versions/old/table/manifest.json", "runs/1/_run/run.json"]
    for name in names:
        out.write_atomic(out.join(name), b'{"input": {}, "files": {}, "fingerprints": {}}')
    version = Version(name="old", published=0.0, runs=["1"])
    asked: list[int] = []

    def overtaken_later() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise LeaseLost("another tick has taken over")

    with pytest.raises(LeaseLost):
        remove(replace(out, guard=overtaken_later), State(versions=[version]), [version])
    assert [info.path for info in out.list()] == sorted(out.join(name) for name in names[1:])
    remove(out, State(versions=[version]), [version])
    assert out.list() == []
