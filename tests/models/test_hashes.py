"""The hash of a file is taken once for each of its states, and believed only where nobody else can write."""

import hashlib
import os
from pathlib import Path

import pytest

from polar_ray.models import hashes
from polar_ray.models.hashes import known_sha256, sha256_of


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read to be hashed; the user's cache is an empty one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "SETTLED_S", 0)
    read: list[str] = []
    hash_file = hashes._hash

    def noted(path: Path) -> str:
        read.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(hashes, "_hash", noted)
    return read


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, reads: list[str]) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"one")
    assert known_sha256(path) is None
    assert [sha256_of(path), sha256_of(path), known_sha256(path)] == [digest(b"one")] * 3
    assert reads == ["model.safetensors"]
    # As many bytes, and the time of before: only the file system's own clock tells.
    before = path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(before, before))
    assert known_sha256(path) is None
    assert sha256_of(path) == digest(b"two")
    assert len(reads) == 2


def test_a_file_that_was_just_written_is_not_remembered(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "SETTLED_S", 3600)
    path = tmp_path / "a"
    path.write_bytes(b"one")
    assert [sha256_of(path), sha256_of(path)] == [digest(b"one")] * 2
    assert known_sha256(path) is None


@pytest.mark.parametrize("how", ["folder for all", "entry for all", "entry of another", "link", "cut", "no folder"])
def test_what_somebody_else_may_have_written_is_not_believed(tmp_path: Path, reads: list[str], how: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    sha256_of(path)
    folder = tmp_path / "cache" / "polar_ray" / "hashes"
    (entry,) = (each for each in folder.iterdir() if len(each.name) == 64)
    entry.write_text(digest(b"forged"))
    assert known_sha256(path) == digest(b"forged"), "the entry is the one that is read"
    if how == "folder for all":
        folder.chmod(0o777)
    elif how == "entry for all":
        entry.chmod(0o666)
    elif how == "entry of another":
        if os.geteuid() != 0:
            pytest.skip("only root gives files away")
        os.chown(entry, 65534, 65534)
    elif how == "link":
        entry.rename(tmp_path / "forged")
        entry.symlink_to(tmp_path / "forged")
    elif how == "cut":
        entry.write_text("0123")
    else:
        entry.unlink()
        folder.rename(tmp_path / "elsewhere")
        folder.write_text("a file where the folder would be")
    assert known_sha256(path) is None
    assert sha256_of(path) == digest(b"one")
