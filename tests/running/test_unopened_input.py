"""A file that cannot be opened is an error that names it, or, where the recipe allows it, read once it can be."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from conftest import rows, write_jsonl, write_parquet
from processes import as_nobody
from runs import Listening, commit, dead_letters, part_files, recipe

from polar_ray.curating.shards import listed_shards, split_by_access
from polar_ray.curating.state import Pending, State, read_state, write_state
from polar_ray.curating.tick import Curation
from polar_ray.data.damage import can_be_opened, opening
from polar_ray.data.lease import Lease
from polar_ray.data.listing import InputFile, list_input
from polar_ray.data.reading import RawSplit, read_source
from polar_ray.data.sources import plan_sources
from polar_ray.data.storage import Storage
from polar_ray.errors import InputChanged, UnopenedFile
from polar_ray.recipe.curate import CurateRecipe
from polar_ray.recipe.input import Input
from polar_ray.recipe.recipe import Recipe
from polar_ray.recipe.run import Limits
from polar_ray.running.folder import RunFolder
from polar_ray.running.inputs import checked_files, refuse_unopened
from polar_ray.running.job import Job
from polar_ray.running.retry import retry
from polar_ray.running.run import _refuse_changed, run
from polar_ray.running.tally import Tally


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize("how", ["forbidden", "gone"])
def test_reading_it_is_an_error_unless_that_is_allowed(open_path: Path, name: str, how: str) -> None:
    path = open_path / name
    (write_parquet if name.endswith("parquet") else write_jsonl)(path, rows(10))
    config = Input(path=str(path), split_rows=4)
    # A Parquet file may be planned before it can no longer be opened.
    planned = plan_sources(list_input(config), config)
    path.chmod(0o600) if how == "forbidden" else path.rename(open_path / "elsewhere")
    with as_nobody():
        later = plan_sources(list_input(config) if how == "forbidden" else [planned[0].file], config)
        for source in (planned[0], later[0]):
            with pytest.raises(
                UnopenedFile, match=rf"{name} cannot be opened .* set limits.max_unopened_files"
            ) as error:
                list(read_source(source, config))
            why = "Permission denied" if how == "forbidden" else "No such file or directory"
            assert str(error.value).startswith(f"{path} cannot be opened ({why}), so ")
        splits = [list(read_source(source, config, unopened_allowed=True)) for source in (planned[0], later[0])]
        resumed = list(read_source(planned[0], config, {"00000-00000"}, unopened_allowed=True))
    assert [told(each) for each in splits] == [
        [("00000-00000", False), ("00000-00001", False), ("00000-00002", True)]
        if name.endswith("parquet")
        else [("00000-00000", True)],
        [("00000-00000", True)],
    ]
    assert told(resumed)[0][0] == "00000-00001"
    assert told(resumed)[-1][1]


def told(splits: list[RawSplit]) -> list[tuple[str, bool]]:
    assert all(raw.unopened and raw.rows == 0 and "cannot be opened" in str(raw.error) for raw in splits)
    return [(raw.split_id, raw.last) for raw in splits]


def test_damage_and_a_storage_that_fails_are_other_things(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="connection reset"), opening("x"):
        raise OSError("connection reset")
    with pytest.raises(UnopenedFile, match="s3://b/x cannot be opened"), opening("s3://b/x"):
        raise OSError("When reading information for key 'x': AWS Error ACCESS_DENIED during HeadObject operation")
    damaged = tmp_path / "a.parquet"
    damaged.write_bytes(b"PAR1, or not")
    config = Input(path=str(damaged))
    (source,) = plan_sources(list_input(config), config)
    assert not source.unopened
    assert "footer cannot be read" in str(next(iter(read_source(source, config))).error)


def test_what_is_known_from_the_plan_stops_a_run_before_it_starts(open_path: Path) -> None:
    write_parquet(open_path / "a.parquet", rows(10)).chmod(0o600)
    write_parquet(open_path / "b.parquet", rows(10))
    config = Input(path=str(open_path))
    with as_nobody():
        sources = plan_sources(list_input(config), config)
    refuse_unopened(sources, Limits(max_unopened_files=1))
    with pytest.raises(UnopenedFile, match=r"a\.parquet cannot be opened"):
        refuse_unopened(sources, Limits())


def test_files_count_towards_their_limit_and_not_splits() -> None:
    commits = [
        commit(split_id=f"{file}-{split}", file=file, dead_letters={"unopened": 1}) for file in "ab" for split in "123"
    ]
    Tally(commits).check(Limits(max_unopened_files=2))
    with pytest.raises(UnopenedFile, match="2 files of the input cannot be opened, a among them"):
        Tally(commits).check(Limits(max_unopened_files=1))


def test_a_curation_leaves_out_the_shards_that_it_cannot_open(open_path: Path) -> None:
    for name, mode in (("a", 0o644), ("b", 0o600), ("c", 0o644)):
        write_jsonl(open_path / f"{name}.jsonl", rows(1)).chmod(mode)
    shards = {str(open_path / f"{name}.jsonl"): {"size": 1} for name in "abcd"}
    with as_nobody():
        opened, unopened = split_by_access(shards, Input(path=str(open_path)), 0)
    assert [Path(path).name for path in opened] == ["a.jsonl", "c.jsonl"]
    assert [Path(path).name for path in unopened] == ["b.jsonl", "d.jsonl"]


def test_and_ends_in_an_error_unless_they_are_allowed(open_path: Path) -> None:
    write_jsonl(open_path / "in" / "a.jsonl", rows(1)).chmod(0o600)
    (open_path / "in").chmod(0o755)
    data = {
        "input": {"path": str(open_path / "in")},
        "scorer": {"kind": "length"},
        "derive": {"pairs": {"pairs": {}}},
        "output": {"path": str(open_path / "out")},
    }
    with as_nobody():
        with pytest.raises(UnopenedFile, match=r"no shards in .*; 1 shards cannot be opened, .*a\.jsonl among them"):
            Curation(CurateRecipe.of(data)).tick()
        outcome = Curation(CurateRecipe.of(data, ["limits.max_unopened_files=1"])).tick()
    assert outcome.kind == "nothing"
    assert "1 shards cannot be opened" in outcome.text


@pytest.mark.parametrize("closed", [["a"], ["a", "b"]])
def test_a_tick_that_was_begun_keeps_what_it_scored_while_its_shards_cannot_be_opened(
    open_path: Path, monkeypatch: pytest.MonkeyPatch, closed: list[str]
) -> None:
    inputs = open_path / "in"
    paths = [write_jsonl(inputs / f"{name}.jsonl", rows(1)) for name in "ab"]
    wanted = CurateRecipe.of(
        {
            "input": {"path": str(inputs)},
            "scorer": {"kind": "length"},
            "derive": {"pairs": {"pairs": {}}},
            "output": {"path": str(open_path / "out")},
        }
    )
    out = Storage.of(str(open_path / "out"), {})
    pending = Pending("2026-01-01T00-00-00Z", listed_shards(wanted, out, time.time()))
    write_state(out, State(pending=pending), 1)
    # A shard that came meanwhile is no reason to give up what was begun.
    write_jsonl(inputs / "c.jsonl", rows(1)).chmod(0o644)
    asked: list[list[str]] = []

    class Asked(Exception):
        pass

    def publish(self: Curation, state: State, work: Any, lease: Lease) -> State:
        asked.append(sorted(work.shards))
        raise Asked

    monkeypatch.setattr(Curation, "_publish", publish)
    for path in paths:
        path.chmod(0o600 if path.stem in closed else 0o644)
    for folder in (inputs, *(path for path in (open_path / "out").rglob("*")), open_path / "out"):
        folder.chmod(0o755)
    with (
        as_nobody(),
        pytest.raises(UnopenedFile, match=r"of 2026-01-01T00-00-00Z is not finished, and keeps .*a\.jsonl among them"),
    ):
        Curation(wanted).tick()
    assert asked == []
    assert read_state(out).pending == pending
    for path in paths:
        path.chmod(0o644)
    with pytest.raises(Asked):
        Curation(wanted).tick()
    assert asked == [[str(path) for path in paths]]


@pytest.mark.usefixtures("embedded_ray")
@pytest.mark.parametrize("layout", ["groups", "scattered"])
def test_a_file_that_could_not_be_opened_is_read_by_the_retry_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    inputs, away = tmp_path / "in", tmp_path / "away.jsonl"
    for name, data in (("a", rows(6)), ("b", rows(30)[20:])):
        write_jsonl(inputs / f"{name}.jsonl", data if layout == "groups" else exploded(data))

    def vanishing(wanted: Recipe, folder: RunFolder, **asked: bool) -> list[InputFile]:
        files = checked_files(wanted, folder, **asked)
        (inputs / "b.jsonl").rename(away)
        return files

    def wanted(name: str) -> Recipe:
        overrides = ("limits.max_unopened_files=1", f"input.layout={layout}", "input.split_rows=4")
        return recipe(inputs, tmp_path / name, *overrides)

    with monkeypatch.context() as patched:
        patched.setattr("polar_ray.running.run.checked_files", vanishing)
        first = run(wanted("out"))
    assert first.counts["dead_letters"] == {"unopened": 1}
    assert first.counts["groups"] == 6
    assert [letter["file"] for letter in dead_letters(tmp_path / "out")] == [str(inputs / "b.jsonl")]
    listening = Listening()
    assert retry(str(tmp_path / "out"), reporter=listening) == first
    assert listening.said[-1].endswith("nothing to do")
    away.rename(inputs / "b.jsonl")
    second = retry(str(tmp_path / "out"))
    fresh = run(wanted("fresh"))
    assert second.counts["dead_letters"] == {}
    assert second.counts["groups"] == fresh.counts["groups"] == 16
    assert part_files(tmp_path / "out" / "generations" / "2") == part_files(tmp_path / "fresh")


@pytest.mark.parametrize("read_before", [True, False])
def test_a_file_of_which_something_was_read_must_be_what_it_was_though_the_rest_could_not_be_opened(
    tmp_path: Path, read_before: bool
) -> None:
    files = {name: write_jsonl(tmp_path / "in" / f"{name}.jsonl", rows(4)) for name in "ab"}
    wanted = recipe(tmp_path / "in", tmp_path / "out", "limits.max_unopened_files=1")
    folder = RunFolder.of(wanted.output.path)
    listed = checked_files(wanted, folder)
    commits = [commit(file=str(files["b"]), dead_letters={"unopened": 1})]
    if read_before:
        commits.append(commit(file=str(files["b"])))
    write_jsonl(files["b"], rows(6))
    job = Job(wanted, folder, tuple(listed), {})
    with pytest.raises(InputChanged, match=r"b\.jsonl changed") if read_before else nullcontext():
        _refuse_changed(job, Tally(commits), None)
    files["b"].unlink()
    _refuse_changed(job, Tally(commits), None)


def exploded(data: list[dict]) -> list[dict]:  # type: ignore[type-arg]
    keys = ("prompt_id", "prompt")
    return [{**{key: row[key] for key in keys}, **candidate} for row in data for candidate in row["candidates"]]


def test_can_be_opened_says_so(open_path: Path) -> None:
    path = write_jsonl(open_path / "a.jsonl", rows(1))
    path.chmod(0o600)
    with as_nobody():
        assert not can_be_opened(Storage.of(str(path)), str(path))
        assert not can_be_opened(Storage.of(str(path)), str(path) + "x")
    assert can_be_opened(Storage.of(str(path)), str(path))
