"""Which versions go, and what goes with them."""

from pathlib import Path

import pytest
from runs import files_below

from polar_ray.curating.state import Shard, State, Version
from polar_ray.curating.versions import expired, latest_version, point_to, points_to, remove
from polar_ray.data.storage import Storage
from polar_ray.errors import NotFinished, OutputError, StateError
from polar_ray.recipe.curate import Retention

DAY = 86400.0


def nightly(count: int) -> list[Version]:
    """One version a night, from day 0."""
    return [Version(f"v{day}", day * DAY, [f"r{day}"]) for day in range(count)]


@pytest.mark.parametrize(
    ("keep", "now", "gone"),
    [
        (Retention(versions=7), 9.5 * DAY, ["v0", "v1", "v2"]),
        (Retention(versions=10), 9.5 * DAY, []),
        # Replaced at day 9, half a day ago.
        (Retention(versions=1, grace_h=24), 9.5 * DAY, [f"v{day}" for day in range(8)]),
        (Retention(versions=1, grace_h=0), 9.5 * DAY, [f"v{day}" for day in range(9)]),
        (Retention(versions=100, age_days=5), 9.5 * DAY, ["v0", "v1", "v2", "v3", "v4"]),
        # Whatever its age, the latest stays.
        (Retention(versions=1, age_days=1, grace_h=0), 1000 * DAY, [f"v{day}" for day in range(9)]),
    ],
)
def test_versions_expire_by_number_and_age_but_not_the_latest_nor_one_just_replaced(
    keep: Retention, now: float, gone: list[str]
) -> None:
    assert [version.name for version in expired(nightly(10), keep, now)] == gone


def curated(out: Storage) -> list[Version]:
    """Four runs, each with a part, and four versions with a table and a dataset, beside files of somebody else."""
    record = b'{"input": {}, "files": {}, "fingerprints": {}}'
    derived = b'{"recipe": {"seed": 0}, "parent": "0", "versions": {"polar-ray": "0"}}'
    for number in (1, 2, 3, 4):
        run, version = f"runs/r{number}", f"versions/v{number}"
        for name in ("manifest.json", "_run/run.json", "scores/part-00000-00000.parquet"):
            out.write_atomic(out.join(run, name), record)
        for name in ("version.json", "table/manifest.json", "table/scores.json", "pairs/data/train/part-00000.jsonl"):
            out.write_atomic(out.join(version, name), b"{}")
        out.write_atomic(out.join(version, "pairs/_derive/derive.json"), derived)
    return [Version("v1", 1, ["r1", "r2"]), Version("v2", 2, ["r2", "r3"]), Version("v3", 3, ["r3", "r4"])]


def names(out: Storage, top: str) -> set[str]:
    return {info.path.removeprefix(out.join(top, "")).split("/")[0] for info in out.list(out.join(top))}


SHARD = Shard(identity={}, run="r4", generation=1, file_index=0, splits=1, counts={})


def test_runs_go_with_the_last_version_and_shard_that_need_them(folder: Storage) -> None:
    versions = curated(folder)
    state = remove(folder, State(versions=versions, shards={"x": SHARD}), versions[:1])
    assert state.versions == versions[1:]
    assert names(folder, "versions") == {"v2", "v3", "v4"}
    assert names(folder, "runs") == {"r2", "r3", "r4"}


def test_what_somebody_else_put_there_stays(folder: Storage) -> None:
    versions = curated(folder)
    mine = [
        folder.join(name) for name in ("versions/v1/notes.md", "versions/v1/table/mine.csv", "runs/r1/scores/x.csv")
    ]
    for path in mine:
        folder.write_atomic(path, b"mine")
    remove(folder, State(versions=versions), versions[:1])
    gone = [folder.join("versions", "v1"), folder.join("runs", "r1")]
    assert [info.path for top in gone for info in folder.list(top)] == mine


def test_nothing_is_deleted_behind_a_link(tmp_path: Path) -> None:
    out = Storage.of(str(tmp_path / "out"))
    versions = curated(out)
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "out" / "runs" / "r1" / "scores").rename(elsewhere)
    (tmp_path / "out" / "runs" / "r1" / "scores").symlink_to(elsewhere)
    before = files_below(tmp_path)
    with pytest.raises(OutputError, match="is a link to"):
        remove(out, State(versions=versions), versions[:1])
    assert files_below(tmp_path) == before


def test_latest_names_the_version_it_was_moved_to(folder: Storage) -> None:
    one, two = nightly(2)
    assert points_to(folder, None)
    assert not points_to(folder, one)
    with pytest.raises(NotFinished, match="no version was published there yet"):
        latest_version(folder.url, storage_options=folder.options)
    for version in (one, two):
        point_to(folder, version)
        assert points_to(folder, version)
        assert latest_version(folder.url, storage_options=folder.options) == folder.join("versions", version.name)
    assert not points_to(folder, one)
    folder.write_atomic(folder.join("latest.json"), b"{")
    with pytest.raises(StateError, match="is damaged"):
        latest_version(folder.url, storage_options=folder.options)
