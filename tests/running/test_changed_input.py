"""A file that changes while it is read is named, and the next attempt gives the table of what is in it then."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import rows, write_jsonl, write_parquet
from runs import files_below, part_files, recipe
from s3_server import bucket

from polar_ray.data.listing import InputFile, list_input
from polar_ray.data.sources import Source, plan_sources
from polar_ray.errors import InputChanged, InputError, OutputError
from polar_ray.recipe.input import Input
from polar_ray.running.establish import establish
from polar_ray.running.folder import RunFolder
from polar_ray.running.identity import Identity
from polar_ray.running.inputs import changed_files
from polar_ray.running.run import run
from polar_ray.running.taking_back import take_back


def write(path: Path, data: list[dict[str, Any]]) -> None:
    """Replaces a file, with a time of its own whatever the clock's steps are."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    (write_parquet if path.suffix == ".parquet" else write_jsonl)(path, data)
    if before:
        os.utime(path, ns=(before + 10**9, before + 10**9))


def per_candidate(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**{key: row[key] for key in ("prompt_id", "prompt")}, **candidate}
        for row in data
        for candidate in row["candidates"]
    ]


CASES = {
    "parquet, grown": ("groups", "a.parquet", 12, 24),
    "parquet, shrunk": ("groups", "a.parquet", 12, 2),
    "jsonl by candidate, grown": ("candidates", "a.jsonl", 6, 9),
    "jsonl scattered, shrunk": ("scattered", "a.jsonl", 9, 4),
}


@pytest.mark.usefixtures("embedded_ray")
@pytest.mark.parametrize("case", CASES)
def test_a_file_that_is_replaced_after_it_was_planned_is_read_again(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, name, before, after = CASES[case]
    inputs = tmp_path / "in"
    shape = (lambda data: data) if layout == "groups" else per_candidate
    write(inputs / name, shape(rows(before)))
    write(inputs / "b.jsonl", shape(rows(40)[30:]))
    wanted = recipe(inputs, tmp_path / "out", "input.split_rows=5", f"input.layout={layout}")

    def replaced(files: Sequence[InputFile], config: Input, wait_s: float, *, reading: int) -> list[Source]:
        planned = plan_sources(files, config, wait_s, reading=reading)
        write(inputs / name, shape(rows(after)))
        return planned

    with monkeypatch.context() as patched:
        patched.setattr("polar_ray.running.run.plan_sources", replaced)
        with pytest.raises(InputChanged, match=rf"{name} changed while it was read: .*size was \d+ and is \d+"):
            run(wanted)
    assert not (tmp_path / "out" / "manifest.json").exists()
    # Whoever wrote to it may not have been ready.
    write(inputs / name, shape(rows(after + 1)))
    again = run(wanted)
    fresh = run(recipe(inputs, tmp_path / "fresh", "input.split_rows=5", f"input.layout={layout}"))
    assert part_files(tmp_path / "out") == part_files(tmp_path / "fresh")
    assert again.inputs == fresh.inputs
    assert {**again.counts, "splits": 0} == {**fresh.counts, "splits": 0}
    assert again.counts["groups"] == after + 1 + 10
    # The other file's work is kept: ten groups in splits of five, or thirty candidates, by candidate cut at prompts.
    assert again.resumed_splits == {"groups": 2, "candidates": 5, "scattered": 6}[layout]
    assert "_run/taken_back.json" not in files_below(tmp_path / "out")


def described(files: list[InputFile]) -> Identity:
    settings = Input(path="/in").model_dump(mode="json", exclude={"path", "storage_options"})
    return Identity(settings, {file.path: {"size": file.size} for file in files}, {})


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3])
def test_taking_back_that_was_interrupted_is_finished_before_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    files = [InputFile(f"/in/{name}.jsonl", 5, None, 1.0, "jsonl", None) for name in "abc"]
    folder = RunFolder.of(str(tmp_path))
    establish(folder, described(files))
    for split in ("00000-00000", "00001-00000", "00001-00001", "00002-00000", "00002-00001"):
        for path in (folder.commit(split), folder.part(split), folder.dead_letters(split)):
            folder.storage.write_atomic(path, b"{}")
    # Something was taken out of this one, since it was in another: which may be the one that is read again.
    folder.storage.write_atomic(folder.join("_run", "duplicates", "00002-00001.json"), b"{}")
    left = [killed_after]
    delete = type(folder.storage).delete

    def killed_later(storage: Any, path: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        delete(storage, path)

    with monkeypatch.context() as patched:
        patched.setattr(type(folder.storage), "delete", killed_later)
        with pytest.raises(KeyboardInterrupt):
            take_back(folder, files, {"/in/b.jsonl"}, Input(path="/in"), changed=True)
    establish(folder, described([files[0], replace(files[1], size=9), files[2]]))
    kept = ("_run/commits/{}.json", "scores/part-{}.parquet", "dead_letters/part-{}.parquet")
    assert files_below(tmp_path) == {
        "_run/run.json",
        *(name.format(split) for split in ("00000-00000", "00002-00000") for name in kept),
    }


def test_a_damaged_record_of_what_is_taken_back_is_one_sentence(tmp_path: Path) -> None:
    folder = RunFolder.of(str(tmp_path))
    files = [InputFile("/in/a.jsonl", 5, None, 1.0, "jsonl", None)]
    establish(folder, described(files))
    Path(folder.taken_back).write_bytes(b'{"changed": [')
    with pytest.raises(OutputError, match=r"taken_back\.json is damaged.*start over with --fresh$"):
        establish(folder, described(files))


def test_a_change_is_seen_by_size_and_by_time_and_so_is_a_file_that_is_gone(tmp_path: Path) -> None:
    for name in "abcd":
        write(tmp_path / f"{name}.jsonl", rows(2))
    wanted = recipe(tmp_path, tmp_path / "out")
    files, folder = list_input(wanted.input), RunFolder.of(wanted.output.path)
    assert changed_files(files, wanted, folder) == {}
    write(tmp_path / "a.jsonl", rows(3))
    write(tmp_path / "b.jsonl", rows(2))
    (tmp_path / "c.jsonl").unlink()
    write(tmp_path / "e.jsonl", rows(2))
    changed = changed_files(files, wanted, folder)
    assert {Path(path).name: how.split(" ")[0] for path, how in changed.items()} == {
        "a.jsonl": "size",
        "b.jsonl": "mtime",
        "c.jsonl": "it",
    }


def test_an_object_is_described_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with bucket() as s3:
        for name in ("in/a.jsonl", "in/b.jsonl", "in/c.jsonl"):
            s3.put(name, b"{}\n")
        place = {"path": "s3://bucket/in", "storage_options": s3.options}
        wanted = recipe("", "s3://bucket/out", input=place)
        files = list_input(wanted.input)
        s3.put("in/b.jsonl", b"{}\n{}\n")
        s3.client.delete_object(Bucket="bucket", Key="in/c.jsonl")
        changed = changed_files(files, wanted, RunFolder.of("s3://bucket/out", s3.options))
    assert set(changed) == {"s3://bucket/in/b.jsonl", "s3://bucket/in/c.jsonl"}
    assert "size was 3 and is 6" in changed["s3://bucket/in/b.jsonl"]


@pytest.mark.usefixtures("embedded_ray")
def test_an_input_without_rows_is_an_error_until_there_are_rows(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(b"\n \n")
    wanted = recipe(tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match=r"a\.jsonl has no rows, so there is nothing to score"):
        run(wanted)
    assert not (tmp_path / "out" / "manifest.json").exists()
    write(tmp_path / "in" / "a.jsonl", rows(3))
    assert run(wanted).counts["groups"] == 3
