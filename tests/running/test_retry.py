"""A retry scores what failed, and nothing else, into the next generation of the same table."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import rows, write_jsonl, write_parquet
from runs import PLACES, Listening, files_below, recipe, score_table
from typer.testing import CliRunner

from polar_ray.cli import app
from polar_ray.data.generations import newest
from polar_ray.data.scores import read_scores
from polar_ray.data.storage import Storage
from polar_ray.errors import InputError, NotFinished, RecipeChanged
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.folder import RunFolder
from polar_ray.running.frequent_failures import frequent_failures
from polar_ray.running.manifest import Manifest
from polar_ray.running.retry import retry
from polar_ray.running.run import run

pytestmark = pytest.mark.usefixtures("embedded_ray")


def flaky(inputs: Path, output: Path, *overrides: str, layout: str = "groups") -> Recipe:
    """A recipe whose scorer raises on some prompts until a file says that it was mended; it notes whom it scores."""
    settings = {"mended": str(inputs.parent / "mended"), "diary": str(inputs.parent / "diary")}
    scorer = {"kind": "custom", "target": "faulty:Flaky", "settings": settings, "public": list(settings)}
    return recipe(inputs, output, "input.split_rows=3", f"input.layout={layout}", *overrides, scorer=scorer)


def mend(inputs: Path, mended: bool = True) -> None:
    """Mends the scorer, or breaks it again, and begins a new diary."""
    (inputs.parent / "mended").unlink(missing_ok=True)
    (inputs.parent / "diary").unlink(missing_ok=True)
    if mended:
        (inputs.parent / "mended").touch()


def diary(inputs: Path) -> list[str]:
    """The prompts that were scored since, sorted."""
    return sorted((inputs.parent / "diary").read_text(encoding="utf-8").splitlines())


def data() -> list[dict[str, Any]]:
    """Fourteen groups, of which two are bad for the flaky scorer until it is mended."""
    made = rows(14)
    for number in (4, 12):
        made[number]["prompt"][0]["content"] = f"bad {number}"
    return made


def write_input(folder: Path) -> Path:
    """Two files; a prompt of the first again in the second, and a line that is not JSON."""
    write_jsonl(folder / "a.jsonl", data()[:8])
    with (folder / "a.jsonl").open("ab") as file:
        file.write(b'{"prompt_id": "torn"\n')
    write_parquet(folder / "b.parquet", [*data()[8:], data()[1]])
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_input(tmp_path_factory.mktemp("retry") / "in")


@pytest.fixture(scope="module")
def failed(inputs: Path, embedded_ray: None) -> Path:
    """A run in which two groups have no scores."""
    manifest = run(flaky(inputs, inputs.parent / "failed"))
    assert manifest.counts["statuses"] == {"": {"error": 6, "ok": 36}}
    assert manifest.counts["dead_letters"] == {"duplicate_row": 1, "invalid_json": 1}
    return inputs.parent / "failed"


class Retried:
    """A retry of the failed run with a mended scorer, and what was there before."""

    def __init__(self, inputs: Path, failed: Path) -> None:
        self.out = inputs.parent / "retried"
        shutil.copytree(failed, self.out)
        self.before = snapshot(self.out)
        mend(inputs)
        self.manifest = retry(str(self.out))
        self.diary = diary(inputs)
        self.new = self.out / "generations" / "2"


@pytest.fixture(scope="module")
def retried(inputs: Path, failed: Path) -> Retried:
    return Retried(inputs, failed)


@pytest.fixture
def copy(failed: Path, tmp_path: Path) -> Path:
    shutil.copytree(failed, tmp_path / "out")
    return tmp_path / "out"


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and modification time of every file of the run itself."""
    names = {name for name in files_below(folder) if not name.startswith("generations/")}
    return {name: ((folder / name).read_bytes(), (folder / name).stat().st_mtime_ns) for name in names}


def by_prompt(table: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["prompt_id"]: row for row in table.to_pylist()}


def without_places(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in PLACES}


def sources(manifest: Manifest) -> dict[int, int]:
    """How many groups come from which generation."""
    assert manifest.generation is not None
    return {source.generation: source.groups for source in manifest.generation.sources}


def test_only_groups_without_scores_are_scored_again(failed: Path, retried: Retried) -> None:
    assert retried.diary == ["bad 12", "bad 4"]
    old, new = by_prompt(score_table(failed)), by_prompt(score_table(retried.new))
    assert list(new) == list(old)
    for prompt_id, row in new.items():
        number = int(prompt_id[1:])
        assert row["reward"] == [float(10 * number + candidate) for candidate in range(3)]
        if number not in (4, 12):
            assert row == old[prompt_id]


def test_a_generation_is_a_whole_run_that_says_where_its_rows_come_from(failed: Path, retried: Retried) -> None:
    first = json.loads((failed / "manifest.json").read_text())
    second = json.loads((retried.new / "manifest.json").read_text())
    assert second["counts"]["statuses"] == {"": {"ok": 42}}
    for name in ("rows", "rows_in_groups", "groups", "candidates", "splits", "dead_letters", "drops"):
        assert second["counts"][name] == first["counts"][name]
    assert second["conservation"] == first["conservation"]
    assert second["generation"]["number"] == 2
    assert second["generation"]["parent"] == str(retried.out)
    assert sources(retried.manifest) == {1: 12, 2: 2}


def test_the_first_generation_is_never_touched(retried: Retried) -> None:
    assert snapshot(retried.out) == retried.before


def test_parts_of_splits_that_need_nothing_are_copied_byte_for_byte(retried: Retried) -> None:
    # The bad prompts are in the second split of either file.
    for name in ("part-00000-00000.parquet", "part-00000-00002.parquet", "part-00001-00000.parquet"):
        assert (retried.new / "scores" / name).read_bytes() == (retried.out / "scores" / name).read_bytes()
    assert len(list((retried.new / "_run" / "commits").iterdir())) == 6


def test_readers_take_the_newest_generation_unless_an_older_one_is_named(retried: Retried) -> None:
    out = str(retried.out)
    assert newest(out) == (f"{out}/generations/2", 2)
    assert newest(f"{out}/generations/1") == (out, 1)
    nulls = {
        path: read_scores(path)["reward"].combine_chunks().flatten().null_count
        for path in (out, f"{out}/generations/2", f"{out}/generations/1")
    }
    assert nulls == {out: 0, f"{out}/generations/2": 0, f"{out}/generations/1": 6}


def test_with_nothing_to_do_a_retry_says_so_and_writes_nothing(retried: Retried) -> None:
    listening = Listening()
    assert retry(str(retried.out), reporter=listening) == retried.manifest
    assert listening.said[-1].endswith("nothing to do")
    assert not (retried.out / "generations" / "3").exists()


def test_the_command_tells_which_rows_come_from_which_generation(retried: Retried) -> None:
    for command in ("retry", "show"):
        result = CliRunner().invoke(app, [command, str(retried.out)])
        assert result.exit_code == 0, result.output
        assert "generation 2; rows by the generation that scored them: 12 from 1, 2 from 2\n" in result.output
        assert f"score table: {retried.new}/scores/part-*.parquet\n" in result.output


def test_an_interrupted_retry_goes_on(inputs: Path, retried: Retried, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(retried.out, out)
    new = out / "generations" / "2"
    expected = {name: (new / name).read_bytes() for name in files_below(new) if name.startswith(("scores", "dead"))}
    for name in ("manifest.json", "_run/commits/00000-00001.json", "scores/part-00000-00001.parquet"):
        (new / name).unlink()
    mend(inputs)
    manifest = retry(str(out))
    assert diary(inputs) == ["bad 4"]
    assert manifest.resumed_splits == 5
    assert sources(manifest) == {1: 12, 2: 2}
    assert {name: (new / name).read_bytes() for name in expected} == expected


def test_a_fresh_run_has_no_generations(inputs: Path, retried: Retried, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(retried.out, out)
    run(flaky(inputs, out), fresh=True)
    assert newest(str(out)) == (str(out), 1)
    assert not (out / "generations").exists()
    assert score_table(out).num_rows == 14


def test_what_fails_again_is_tried_again_in_the_generation_after(inputs: Path, copy: Path) -> None:
    mend(inputs, mended=False)
    second = retry(str(copy))
    assert second.counts["statuses"] == {"": {"error": 6, "ok": 36}}
    mend(inputs)
    third = retry(str(copy))
    assert diary(inputs) == ["bad 12", "bad 4"]
    assert sources(second) == {1: 12, 2: 2}
    assert sources(third) == {1: 12, 3: 2}
    assert third.counts["statuses"] == {"": {"ok": 42}}
    assert third.conservation == second.conservation
    assert newest(str(copy))[1] == 3


def test_a_mended_file_is_read_anew_and_its_groups_keep_their_scores(tmp_path: Path) -> None:
    inputs, out = write_input(tmp_path / "in"), tmp_path / "out"
    run(flaky(inputs, out))
    old = by_prompt(score_table(out))
    mend(inputs)
    # A row comes first, the torn line is whole, a group has another candidate, and one is gone.
    changed = data()[:8]
    changed[2]["candidates"][0]["messages"][0]["content"] = "y" * 7
    del changed[6]
    early, torn = rows(22)[20:]
    write_jsonl(inputs / "a.jsonl", [early, *changed, torn])
    second = retry(str(out))
    assert diary(inputs) == ["bad 12", "bad 4", "question 2", "question 20", "question 21"]
    new = by_prompt(score_table(out / "generations" / "2"))
    expected = [20, 0, 1, 2, 3, 4, 5, 7, 21, 8, 9, 10, 11, 12, 13]
    assert list(new) == [f"p{number:04d}" for number in expected]
    assert new["p0002"]["reward"] == [7.0, 21.0, 22.0]
    for number in (0, 1, 3, 5, 7, 8, 9, 10, 11, 13):
        assert without_places(new[f"p{number:04d}"]) == without_places(old[f"p{number:04d}"])
    assert second.counts["dead_letters"] == {"duplicate_row": 1}
    assert second.conservation["holds"]
    assert second.conservation["rows_read"] == 16
    assert sources(second) == {1: 10, 2: 5}

    # A prompt whose first occurrence is gone comes back where it was a duplicate, with the scores it had there.
    mend(inputs)
    (inputs.parent / "diary").touch()
    write_jsonl(inputs / "a.jsonl", [early, *(row for row in changed if row["prompt_id"] != "p0001"), torn])
    third = retry(str(out))
    assert diary(inputs) == []
    newer = by_prompt(score_table(out / "generations" / "3"))
    assert newer["p0001"]["input_file"].endswith("b.parquet")
    assert without_places(newer["p0001"]) == without_places(new["p0001"])
    assert third.counts["dead_letters"] == {}
    assert sources(third) == {1: 10, 2: 5}


def test_a_column_that_is_named_rightly_now_revives_its_rows(tmp_path: Path) -> None:
    data = rows(6)
    for row in data[3:]:
        row["question"] = row.pop("prompt")
    write_jsonl(tmp_path / "in.jsonl", data)
    out = tmp_path / "out"
    first = run(recipe(tmp_path / "in.jsonl", out, "input.split_rows=2", "limits.max_dead_letters=0.9"))
    assert first.counts["dead_letters"] == {"prompt_missing": 3}
    manifest = retry(str(out), ["input.columns.prompt=question"])
    assert manifest.counts["dead_letters"] == {"prompt_missing": 3}
    assert score_table(out / "generations/2")["prompt_id"].to_pylist() == ["p0003", "p0004", "p0005"]


def test_a_changed_scorer_is_refused_unless_it_is_allowed(inputs: Path, copy: Path, tmp_path: Path) -> None:
    settings = json.dumps({"mended": str(tmp_path), "diary": str(tmp_path / "diary"), "add": 1000})
    with pytest.raises(RecipeChanged, match=r"the scorer is not what it was .*\(setting:add, .*--allow-changed"):
        retry(str(copy), [f"scorer.settings={settings}"])
    with pytest.raises(RecipeChanged, match="was scored by custom, and rewards of length do not compare"):
        retry(str(copy), ["scorer={kind: length}"], allow_changed=True)
    assert not (copy / "generations").exists()
    manifest = retry(str(copy), [f"scorer.settings={settings}"], allow_changed=True)
    new = by_prompt(score_table(copy / "generations" / "2"))
    assert new["p0004"]["reward"] == [1040.0, 1041.0, 1042.0]
    assert new["p0005"]["reward"] == [50.0, 51.0, 52.0]
    assert manifest.generation is not None
    said = {each.generation: each.fingerprints[""].get("setting:add") for each in manifest.generation.sources}
    assert said == {1: None, 2: f"sha256:{hashlib.sha256(b'1000').hexdigest()}"}


def test_new_files_are_left_to_a_run_of_their_own_and_missing_ones_are_named(tmp_path: Path) -> None:
    inputs, out = tmp_path / "in", tmp_path / "out"
    write_jsonl(inputs / "a.jsonl", rows(2))
    run(recipe(inputs, out))
    write_jsonl(inputs / "b.jsonl", rows(40)[30:])
    listening = Listening()
    retry(str(out), reporter=listening)
    assert listening.said[0].startswith("1 files are new since the run")
    assert listening.said[1].endswith("nothing to do")
    (inputs / "a.jsonl").unlink()
    with pytest.raises(InputError, match=r"1 files of the run's input are not there any more, .*a\.jsonl"):
        retry(str(out))
    (out / "manifest.json").unlink()
    with pytest.raises(NotFinished, match="run its recipe again to finish it"):
        retry(str(out))


def test_what_an_earlier_version_read_is_read_again_though_it_would_be_passed_over_today(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", rows(2))
    described = write_jsonl(tmp_path / "in" / "dataset_info.json", rows(4)[2:])
    # That version listed the file like any other, as this one does where it is named.
    manifest = run(recipe([str(tmp_path / "in"), str(described)], tmp_path / "out"))
    assert len(manifest.inputs) == 2
    made = json.loads((tmp_path / "out" / "manifest.json").read_text())
    made["recipe"]["input"]["path"] = str(tmp_path / "in")
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(made))
    listening = Listening()
    assert run(recipe(tmp_path / "in", tmp_path / "out"), reporter=listening).inputs == manifest.inputs
    retry(str(tmp_path / "out"), reporter=listening)
    assert [line.split(" ")[-1] for line in listening.said] == ["over)", "do"]
    assert len(run(recipe(tmp_path / "in", tmp_path / "out"), fresh=True).inputs) == 1


def test_an_empty_path_of_an_earlier_version_stands_for_the_files_that_it_led_to(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", rows(2))
    run(recipe(tmp_path / "in", tmp_path / "out"))
    made = json.loads((tmp_path / "out" / "manifest.json").read_text())
    made["recipe"]["input"]["path"] = ""
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(made))
    listening = Listening()
    retry(str(tmp_path / "out"), reporter=listening)
    assert listening.said[-1].endswith("nothing to do")


def test_a_run_does_not_take_its_own_output_for_new_input(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(2))
    run(recipe(tmp_path, tmp_path / "out"))
    (tmp_path / "out" / "report.html").write_text("<html>")
    listening = Listening()
    retry(str(tmp_path / "out"), reporter=listening)
    assert len(listening.said) == 1
    assert listening.said[0].endswith("nothing to do")


def test_a_retry_finds_an_input_that_was_named_from_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", rows(2))
    monkeypatch.chdir(tmp_path)
    run(recipe(Path("in"), tmp_path / "out"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    listening = Listening()
    retry(str(tmp_path / "out"), reporter=listening)
    assert listening.said[-1].endswith("nothing to do")


def test_scattered_candidates_are_scored_again_by_partition(tmp_path: Path) -> None:
    inputs, out = tmp_path / "in", tmp_path / "out"
    lines = [
        {"prompt_id": row["prompt_id"], "prompt": row["prompt"], **candidate}
        for row in data()
        for candidate in row["candidates"]
    ]
    write_jsonl(inputs / "a.jsonl", [*lines[::2], {"prompt_id": 1}])
    write_jsonl(inputs / "b.jsonl", lines[1::2])
    first = run(flaky(inputs, out, "input.split_bytes=4000", layout="scattered"))
    assert first.counts["statuses"] == {"": {"error": 6, "ok": 36}}
    old = by_prompt(score_table(out))
    mend(inputs)
    second = retry(str(out))
    assert diary(inputs) == ["bad 12", "bad 4"]
    assert second.conservation == first.conservation
    new = by_prompt(score_table(out / "generations" / "2"))
    assert sorted(new["p0012"]["reward"]) == [120.0, 121.0, 122.0]
    kept = [name for name in old if name not in ("p0004", "p0012")]
    assert [new[name] for name in kept] == [old[name] for name in kept]


def test_failures_are_shown_with_a_prompt_and_what_to_do(failed: Path) -> None:
    shown = CliRunner().invoke(app, ["show", str(failed), "-n", "1"])
    assert shown.exit_code == 0, shown.output
    lines = shown.output[shown.output.index("status: error 6") :].splitlines()
    assert lines[1] == "  error 6, such as in prompt_id 'p0004': ValueError: not mended yet"
    assert lines[2] == f"  mend the cause, then score these again: polar-ray retry {failed}"


def test_the_command_that_is_advised_can_be_pasted(failed: Path, tmp_path: Path) -> None:
    shutil.copytree(failed, tmp_path / "my run")
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "my run"), "-n", "1"])
    assert f"score these again: polar-ray retry '{tmp_path}/my run'\n" in shown.output


def test_what_failed_in_a_version_is_retried_in_the_run_that_scored_it(failed: Path, tmp_path: Path) -> None:
    for name, counts in (("1", {"": {"error": 6}}), ("2", {"": {"ok": 42}})):
        shutil.copytree(failed, tmp_path / "runs" / name)
        manifest = json.loads((failed / "manifest.json").read_text())
        manifest["counts"]["statuses"] = counts
        (tmp_path / "runs" / name / "manifest.json").write_text(json.dumps(manifest))
    table = tmp_path / "versions" / "v" / "table"
    table.mkdir(parents=True)
    shutil.copy(failed / "manifest.json", table)
    parts = [
        {"path": f"../../../runs/{run}/scores/{part.name}", "size": part.stat().st_size}
        for run in "12"
        for part in sorted((failed / "scores").iterdir())
    ]
    (table / "scores.json").write_text(json.dumps({"schema": 1, "parts": parts}))
    shown = CliRunner().invoke(app, ["show", str(table), "-n", "1"])
    assert (
        "  mend the cause, then retry the runs of the curation that scored these, such as with polar-ray retry "
        f"{tmp_path}/runs/1; its next tick publishes it\n"
    ) in shown.output


def test_a_storage_that_is_away_for_a_moment_does_not_end_what_shows_failures(
    failed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = frequent_failures(RunFolder(str(failed)), [""])
    opened, away = Storage.open_file, [True]

    def sometimes(storage: Storage, path: str) -> pa.NativeFile:
        if away:
            away.pop()
            raise ConnectionResetError("connection reset by peer")
        return opened(storage, path)

    monkeypatch.setattr(Storage, "open_file", sometimes)
    assert frequent_failures(RunFolder(str(failed)), [""]) == expected != []
    assert not away


def test_a_retry_that_changes_nothing_says_so(inputs: Path, copy: Path) -> None:
    mend(inputs, mended=False)
    listening = Listening()
    manifest = retry(str(copy), reporter=listening)
    assert manifest.counts["statuses"] == {"": {"error": 6, "ok": 36}}
    assert listening.said[-1].startswith(
        "the retry changed nothing: generation 2 has as many scores, failures and dead"
    )
    mend(inputs)
    listening = Listening()
    assert retry(str(copy), reporter=listening).counts["statuses"] == {"": {"ok": 42}}
    assert not any("changed nothing" in text for text in listening.said)
