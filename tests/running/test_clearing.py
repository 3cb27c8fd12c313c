"""A run is deleted only where one is, and nothing else beside it."""

import pickle
from pathlib import Path

import pytest
from runs import files_below

from polar_ray.data.storage import Storage
from polar_ray.errors import NotARun, OutputError
from polar_ray.running.clearing import clear
from polar_ray.running.establish import establish
from polar_ray.running.folder import RunFolder
from polar_ray.running.identity import Identity

RECORD = '{"input": {}, "files": {}, "fingerprints": {}}'
RUN = (
    "manifest.json",
    "scores/part-00000-00000.parquet",
    "scores/part-scattered-00003.parquet",
    "scores/part-123456-1234567.parquet",
    "dead_letters/part-00000-00000.parquet",
    "dead_letters/part-00000-00000-duplicates.parquet",
    "_run/commits/00000-00000.json",
    "_run/commits/scattered-00003.json",
    "_run/duplicates/00000-00000.json",
    "_run/origins/00000-00000.json",
    "_run/token_budgets.json",
    f"scores/.tmp-{'0f' * 16}",
)
"""What a run may leave beside its record."""
MINE = {
    "notes.txt",
    "scores/mine.csv",
    "scores/part-of-mine.parquet",
    "scores/old/part-00000-00000.parquet",
    "dead_letters/part-00000-00000.parquet.bak",
    "_run/commits/notes.json",
    "_run/mine.json",
    "derived/pairs/manifest.json",
    "generations/2/thesis.tex",
    "generations/notes/_run/run.json",
    ".tmp-notes",
}


def write(top: Path, *names: str) -> None:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(RECORD if name.endswith("run.json") else "x")


def test_clearing_deletes_the_run_with_its_generations_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, "_run/run.json", *RUN, *MINE)
    write(tmp_path / "generations" / "3", "_run/run.json", *RUN)
    write(tmp_path / "generations" / "12", "_run/run.json", *RUN, "notes.txt")
    clear(RunFolder.of(str(tmp_path)))
    assert files_below(tmp_path) == MINE | {"generations/12/notes.txt"}
    assert not (tmp_path / "generations" / "3").exists()


def test_a_run_by_itself_leaves_an_empty_folder(tmp_path: Path) -> None:
    write(tmp_path, "_run/run.json", *RUN)
    write(tmp_path / "generations" / "2", "_run/run.json", *RUN)
    clear(RunFolder.of(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


WEB = ("manifest.json", "scores/mine.csv", "scores/part-00000-00000.parquet", "dead_letters/part-00000-00000.parquet")


@pytest.mark.parametrize("more", [(), ("_derive/derive.json",), ("scores.json",)])
def test_a_manifest_makes_no_run(tmp_path: Path, more: tuple[str, ...]) -> None:
    write(tmp_path, *WEB, *more)
    folder = RunFolder.of(str(tmp_path))
    clear(folder)
    with pytest.raises(NotARun, match="holds files but no run of polar_ray"):
        establish(folder, Identity({}, {}, {}), fresh=True)
    assert files_below(tmp_path) == {*WEB, *more}


@pytest.mark.parametrize("record", ["", "{", "[]", '{"name": "my app"}'])
def test_a_record_that_is_none_makes_no_run(tmp_path: Path, record: str) -> None:
    write(tmp_path, *WEB, "_run/run.json")
    (tmp_path / "_run" / "run.json").write_text(record)
    with pytest.raises(NotARun, match="is not the record of a run"):
        clear(RunFolder.of(str(tmp_path)))
    assert files_below(tmp_path) == {*WEB, "_run/run.json"}


def test_an_empty_folder_or_none_can_be_cleared(tmp_path: Path) -> None:
    clear(RunFolder.of(str(tmp_path)))
    clear(RunFolder.of(str(tmp_path / "nowhere")))
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize(
    "link", ["scores", "dead_letters", "_run", "_run/commits", "generations", "generations/2", "generations/2/scores"]
)
def test_links_are_seen_before_anything_is_deleted(tmp_path: Path, link: str) -> None:
    run = tmp_path / "run"
    write(run, "_run/run.json", *RUN)
    write(run / "generations" / "2", "_run/run.json", *RUN)
    (run / link).rename(tmp_path / "elsewhere")
    (run / link).symlink_to(tmp_path / "elsewhere")
    before = files_below(tmp_path)
    with pytest.raises(OutputError, match=f"{link} is a link to .*elsewhere"):
        establish(RunFolder.of(str(run)), Identity({}, {}, {}), fresh=True)
    assert files_below(tmp_path) == before


def test_a_file_that_is_a_link_goes_without_what_it_leads_to(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write(run, "_run/run.json", *RUN)
    (run / RUN[1]).rename(tmp_path / "kept")
    (run / RUN[1]).symlink_to(tmp_path / "kept")
    clear(RunFolder.of(str(run)))
    assert files_below(tmp_path) == {"kept"}


def test_an_interrupted_clearing_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"_run/run.json", *(name for name in RUN if ".tmp-" not in name)}
    delete, deleted = Storage.delete, [0]

    def killed_later(storage: Storage, path: str) -> None:
        if "/lease/" in path:
            # This process lives on, so its lease would not be taken over.
            delete(storage, path)
            return
        if deleted[0] == 0:
            raise KeyboardInterrupt
        deleted[0] -= 1
        delete(storage, path)

    monkeypatch.setattr(Storage, "delete", killed_later)
    for count in range(len(names)):
        top = tmp_path / str(count)
        write(top, *names, "notes.txt")
        deleted[0] = count
        with pytest.raises(KeyboardInterrupt):
            clear(RunFolder.of(str(top)))
        left = files_below(top)
        assert "_run/run.json" in left
        # What would be taken for finished or done is not there without what stands for it.
        assert count == 0 or "manifest.json" not in left
        assert not any("commits" in name for name in left) or {name for name in names if "scores/" in name} <= left
        deleted[0] = 100
        clear(RunFolder.of(str(top)))
        assert files_below(top) == {"notes.txt"}


def test_clearing_stops_at_the_very_file_before_which_another_took_over(tmp_path: Path) -> None:
    class Overtaken(Exception):
        """Raised as a lease does."""

    for count in range(5):
        top, left = tmp_path / str(count), [count]
        write(top, "_run/run.json", *RUN)
        before = files_below(top)

        def guard(left: list[int] = left) -> None:
            if not left[0]:
                raise Overtaken
            left[0] -= 1

        with pytest.raises(Overtaken):
            establish(RunFolder.of(str(top)).guarded(guard), Identity({}, {}, {}), fresh=True)
        assert len(before - files_below(top)) == count
        assert (top / "_run/run.json").read_text() == RECORD


def test_a_guard_stays_with_its_process(tmp_path: Path) -> None:
    folder = RunFolder.of(str(tmp_path)).guarded(lambda: pytest.fail("asked in another process"))
    assert folder.storage.guard is not None
    there = pickle.loads(pickle.dumps(folder))
    there.storage.write_atomic(there.join("x"), b"1")
    assert there == folder
