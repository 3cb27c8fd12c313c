"""What a killed driver has left is found, and nobody else's folder is taken for it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from polar_ray.running import embedded
from polar_ray.running.embedded import MAKING_S, clean_up, leftovers, own_folder

OLD = MAKING_S + 60


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folders are made, which is the test's own."""
    monkeypatch.setattr(embedded, "_parents", lambda: [str(tmp_path)])
    return tmp_path


def made(folder: Path, *files: str, age_s: float = 0) -> Path:
    folder.mkdir(mode=0o700)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    then = folder.stat().st_mtime - age_s
    os.utime(folder, (then, then))
    return folder


def test_what_was_written_once_more_while_a_folder_was_deleted_is_found_and_deleted(parent: Path) -> None:
    again = made(parent / "polar-ray-again", "r/session_1/logs/late.log")
    empty = made(parent / "polar-ray-empty", age_s=OLD)
    assert [left.folder for left in leftovers()] == [str(again), str(empty)]
    clean_up()
    assert list(parent.iterdir()) == []


OTHERS: dict[str, Callable[[Path], Path]] = {
    "being made": lambda parent: made(parent / "polar-ray-new"),
    "being made, its lock not named yet": lambda parent: made(parent / "polar-ray-newer", "driver.lock.new"),
    "an upload's": lambda parent: made(parent / "polar-ray-upload", "spool", age_s=OLD),
    "a person's": lambda parent: made(parent / "polar-ray-notes", "r/x", "notes.txt", age_s=OLD),
    "open to others": lambda parent: opened(made(parent / "polar-ray-open", "r/session_1/x", age_s=OLD)),
}


def opened(folder: Path) -> Path:
    folder.chmod(0o755)
    return folder


@pytest.mark.parametrize("kind", OTHERS)
def test_a_folder_that_may_be_somebodys_is_left_alone(parent: Path, kind: str) -> None:
    folder = OTHERS[kind](parent)
    assert clean_up() == []
    assert folder.is_dir()


def test_a_folder_in_use_is_left_alone_until_its_driver_ends(parent: Path) -> None:
    with own_folder() as folder:
        assert clean_up() == []
        assert Path(folder).is_dir()
    assert not Path(folder).exists()


def test_a_folder_whose_lock_was_cleaned_away_is_left_alone_as_long_as_something_runs_in_it(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(parent / "polar-ray-used", "r/session_1/x", age_s=OLD)
    monkeypatch.setattr(embedded.ray_watcher, "processes_in", lambda path: [1])
    assert clean_up() == []
    monkeypatch.undo()
    monkeypatch.setattr(embedded, "_parents", lambda: [str(parent)])
    assert [left.folder for left in clean_up()] == [str(folder)]
