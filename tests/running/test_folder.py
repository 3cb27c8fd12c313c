"""Where a run's files are, and what they say of it."""

import pickle
import uuid
from pathlib import Path

import msgspec
import pytest
from runs import commit

from polar_ray.deriving.derived_folder import DerivedFolder
from polar_ray.errors import NotARun, NotFinished
from polar_ray.recipe.run import Output
from polar_ray.running.folder import RunFolder
from polar_ray.running.manifest import read_manifest


def make_run(path: Path, *, finished: bool = True) -> RunFolder:
    names = [
        "scores/part-00000-00000.parquet",
        "dead_letters/part-00000-00000.parquet",
        "_run/commits/00000-00000.json",
    ]
    for name in [*names, "_run/run.json", *(["manifest.json"] if finished else [])]:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(msgspec.json.encode(commit()) if "commits" in name else b"{}")
    return RunFolder.of(str(path))


def test_the_parts_of_a_split_have_their_places(tmp_path: Path) -> None:
    folder = RunFolder.of(str(tmp_path) + "/")
    assert folder.part("00001-00002") == f"{tmp_path}/scores/part-00001-00002.parquet"
    assert folder.dead_letters("00001-00002") == f"{tmp_path}/dead_letters/part-00001-00002.parquet"
    assert folder.commit("00001-00002") == f"{tmp_path}/_run/commits/00001-00002.json"
    assert folder.manifest == f"{tmp_path}/manifest.json"


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunFolder.of("out/run").path == f"{tmp_path}/out/run"


def test_a_url_stays_as_it_is() -> None:
    assert RunFolder.of("s3://bucket/out/").join("scores") == "s3://bucket/out/scores"


def test_what_a_killed_writer_left_does_not_make_a_folder_foreign(tmp_path: Path) -> None:
    (tmp_path / f".tmp-{uuid.uuid4().hex}").write_text("half")
    RunFolder.of(str(tmp_path)).check_free()


def test_commits_are_read_by_split(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    assert folder.read_commits() == {"00000-00000": commit()}


def test_a_run_is_finished_when_its_manifest_is_there(tmp_path: Path) -> None:
    assert make_run(tmp_path / "a").is_finished()
    unfinished = make_run(tmp_path / "b", finished=False)
    assert unfinished.is_run()
    assert not unfinished.is_finished()
    with pytest.raises(NotFinished, match="has not finished; run its recipe again"):
        read_manifest(unfinished)
    (tmp_path / "c").mkdir()
    with pytest.raises(NotARun, match=r"it has no manifest\.json"):
        read_manifest(RunFolder.of(str(tmp_path / "c")))
    with pytest.raises(NotARun, match=r"d is not there; give the output\.path of a run"):
        read_manifest(RunFolder.of(str(tmp_path / "d")))


def test_a_folder_has_one_storage_and_one_connection(tmp_path: Path) -> None:
    folder = RunFolder.of(str(tmp_path), wait_s=7)
    assert folder.storage is folder.storage
    assert folder.storage.filesystem is folder.storage.filesystem
    assert folder.storage.wait_s == 7
    derived = DerivedFolder.of(Output(path=str(tmp_path)), wait_s=7)
    assert derived.storage is derived.storage
    assert derived.storage.wait_s == 7


def test_a_folder_that_was_sent_to_a_worker_opens_its_own_connection_once(tmp_path: Path) -> None:
    folder = RunFolder.of(str(tmp_path), wait_s=7)
    here = folder.storage.filesystem
    there = pickle.loads(pickle.dumps(folder))
    assert there == folder
    assert there.storage is there.storage
    assert there.storage.wait_s == 7
    assert there.storage.filesystem is not here
