"""A compiled library is loaded only from where nobody else can have put it, and only as it was written."""

import os
import shutil
from pathlib import Path

import pytest

from polar_ray.data.own_cache import own_cache_folder
from polar_ray.engine import compiled
from polar_ray.engine.compiled import load_compiled

CC = shutil.which("cc")
pytestmark = pytest.mark.skipif(CC is None, reason="needs a C compiler")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path / "cache" / "polar_ray"


def answer_of(tmp_path: Path, answer: int = 7) -> int:
    source = tmp_path / "small.c"
    source.write_text(f"int answer(void) {{ return {answer}; }}\n")
    assert CC is not None
    found = int(load_compiled(source, [CC], ["answer"]).answer())
    assert list((tmp_path / "tmp").iterdir()) == [], "nothing is left in the temporary directory"
    return found


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def foreign(path: Path, tmp_path: Path) -> None:
    """Puts a library of another source, with its checksum, in the place of one."""
    elsewhere = tmp_path / "elsewhere"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(elsewhere))
        assert answer_of(tmp_path, 666) == 666
    shutil.copy(only(elsewhere / "polar_ray"), path)


def test_it_is_compiled_once_for_its_owner_alone(tmp_path: Path, cache: Path) -> None:
    assert answer_of(tmp_path) == 7
    written = only(cache).stat()
    assert answer_of(tmp_path) == 7
    assert only(cache).stat().st_mtime_ns == written.st_mtime_ns
    assert (cache.stat().st_mode & 0o777, written.st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.parametrize("size", [0, 20, 5000, -1])
def test_a_library_that_was_cut_is_compiled_anew(tmp_path: Path, cache: Path, size: int) -> None:
    assert answer_of(tmp_path) == 7
    whole = only(cache).read_bytes()
    only(cache).write_bytes(whole[:size])
    assert answer_of(tmp_path) == 7
    assert len(only(cache).read_bytes()) == len(whole)


def test_a_library_that_others_may_write_to_is_not_loaded(tmp_path: Path, cache: Path) -> None:
    answer_of(tmp_path)
    foreign(only(cache), tmp_path)
    # Whoever may write as this user may run as this user: this one is loaded.
    assert answer_of(tmp_path) == 666
    only(cache).chmod(0o666)
    assert answer_of(tmp_path) == 7


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_belongs_to_another_user_is_not_loaded(tmp_path: Path, cache: Path, what: str) -> None:
    answer_of(tmp_path)
    foreign(only(cache), tmp_path)
    os.chown(cache if what == "folder" else only(cache), 12345, 12345)
    assert answer_of(tmp_path) == 7


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path, cache: Path) -> None:
    answer_of(tmp_path)
    foreign(only(cache), tmp_path)
    cache.chmod(0o777)
    assert own_cache_folder() is None
    assert answer_of(tmp_path) == 7


def test_a_link_in_the_place_of_the_folder_or_the_file_is_not_followed(tmp_path: Path, cache: Path) -> None:
    answer_of(tmp_path)
    foreign(tmp_path / "other.so", tmp_path)
    path = only(cache)
    path.unlink()
    path.symlink_to(tmp_path / "other.so")
    assert answer_of(tmp_path) == 7
    assert not path.is_symlink()
    cache.rename(tmp_path / "moved")
    cache.symlink_to(tmp_path / "moved")
    assert own_cache_folder() is None


def test_without_a_home_each_process_compiles_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(compiled.Path, "home", homeless)
    assert own_cache_folder() is None
    assert answer_of(tmp_path) == 7


def test_a_relative_cache_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert own_cache_folder() == tmp_path / "home" / ".cache" / "polar_ray"


def test_a_compiler_that_makes_another_library_is_told(tmp_path: Path, cache: Path) -> None:
    source = tmp_path / "small.c"
    source.write_text("int question(void) { return 1; }\n")
    assert CC is not None
    with pytest.raises(OSError, match="made a library without answer"):
        load_compiled(source, [CC], ["answer"])
    assert not any(cache.iterdir())
