"""A run never reads what it has written itself."""

from pathlib import Path

import pytest
from conftest import rows, write_jsonl, write_parquet
from runs import recipe

from polar_ray.errors import InputError
from polar_ray.recipe.input import Input
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.folder import RunFolder
from polar_ray.running.inputs import input_files, of_this_job_only


def listed(wanted: Recipe) -> list[str]:
    return [Path(file.path).name for file in input_files(wanted, RunFolder.of(wanted.output.path))]


def test_an_output_folder_in_the_input_folder_is_passed_over(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(1))
    write_jsonl(tmp_path / "out-of-date" / "b.jsonl", rows(1))
    write_parquet(tmp_path / "out" / "scores" / "part-00000-00000.parquet", rows(1))
    assert listed(recipe(tmp_path, tmp_path / "out")) == ["a.jsonl", "b.jsonl"]
    assert listed(recipe(tmp_path, f"{tmp_path}/out/")) == ["a.jsonl", "b.jsonl"]


def test_what_the_recipe_derives_is_no_input_wherever_it_lies(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(1))
    write_jsonl(tmp_path / "pairs-of-others" / "b.jsonl", rows(1))
    write_parquet(tmp_path / "pairs" / "data" / "train.parquet", rows(1))
    (tmp_path / "pairs" / "data" / "card.txt").write_text("no rows")
    derive = {
        "best": {"best_of_n": {"top_k": 1}, "export": {"kind": "trl_sft"}, "output": {"path": f"{tmp_path}/pairs"}}
    }
    assert listed(recipe(tmp_path, tmp_path / "out", derive=derive)) == ["a.jsonl", "b.jsonl"]


def test_another_runs_output_is_input_like_any_other(tmp_path: Path) -> None:
    write_parquet(tmp_path / "first" / "scores" / "part-00000-00000.parquet", rows(1))
    assert listed(recipe(tmp_path / "first" / "scores", tmp_path / "second")) == ["part-00000-00000.parquet"]


def test_an_input_that_is_all_output_is_an_error(tmp_path: Path) -> None:
    write_parquet(tmp_path / "scores" / "part-00000-00000.parquet", rows(1))
    with pytest.raises(InputError, match=r"lie in output\.path"):
        listed(recipe(tmp_path / "scores", tmp_path))


def test_a_list_of_no_paths_is_called_so(tmp_path: Path) -> None:
    recipe_of_none = Recipe.of({"input": {"path": []}, "scorer": {"kind": "length"}, "output": {"path": str(tmp_path)}})
    with pytest.raises(InputError, match=r"input\.path gives no path: name at least one file"):
        listed(recipe_of_none)


@pytest.mark.parametrize(("read", "written"), [("link", "real/out"), ("real", "link/out"), ("real", "elsewhere")])
def test_output_in_the_input_is_passed_over_where_one_of_them_is_reached_by_a_link(
    tmp_path: Path, read: str, written: str
) -> None:
    real = tmp_path / "real"
    write_jsonl(real / "a.jsonl", rows(1))
    write_parquet(real / "out" / "scores" / "part-00000-00000.parquet", rows(1))
    write_parquet(real / "out" / "dead_letters" / "part-00000-00000.parquet", rows(1))
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "elsewhere").symlink_to(real / "out")
    assert listed(recipe(tmp_path / read, tmp_path / written)) == ["a.jsonl"]


def test_a_link_to_the_output_is_output_too(tmp_path: Path) -> None:
    inputs, out = tmp_path / "in", tmp_path / "out" / "scores"
    write_jsonl(inputs / "a.jsonl", rows(1))
    part = write_parquet(out / "part-00000-00000.parquet", rows(1))
    (inputs / "b").symlink_to(out)
    (inputs / "c.parquet").symlink_to(part)
    assert listed(recipe(inputs, tmp_path / "out")) == ["a.jsonl"]
    assert listed(recipe(inputs, tmp_path / "other")) == ["a.jsonl", "part-00000-00000.parquet", "c.parquet"]


def test_what_a_run_of_an_earlier_version_read_of_its_own_output_is_in_its_record_and_stays(tmp_path: Path) -> None:
    real = tmp_path / "real"
    write_jsonl(real / "a.jsonl", rows(1))
    write_parquet(real / "out" / "dead_letters" / "part-00000-00000.parquet", rows(1))
    (tmp_path / "link").symlink_to(real)
    wanted = recipe(tmp_path / "link", real / "out")
    recorded = [f"{tmp_path}/link/a.jsonl", f"{tmp_path}/link/out/dead_letters/part-00000-00000.parquet"]
    found = input_files(wanted, RunFolder.of(wanted.output.path), recorded)
    assert [file.path for file in found] == recorded


def test_a_submitted_job_is_told_that_what_it_brought_along_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    brought = Input(path=["s3://bucket/a", "pipelines/sample"])
    assert of_this_job_only(brought) is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    told = of_this_job_only(brought)
    assert told is not None
    assert told.startswith("input.path pipelines/sample is a relative path")
    assert of_this_job_only(Input(path=["s3://bucket/a", "/shared/b"])) is None
