"""A plan says what a run would do, from the head of the input, and writes nothing."""

import json
from pathlib import Path

import pytest
import yaml
from conftest import rows, write_jsonl, write_parquet
from runs import TESTS, TINY_POLAR, files_below, recipe

from polar_ray.errors import InputError
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.plan import plan


def candidate_rows(groups: int) -> list[dict[str, object]]:
    return [
        {"prompt_id": row["prompt_id"], "prompt": row["prompt"], "reference": row["reference"], **candidate}
        for row in rows(groups)
        for candidate in row["candidates"]
    ]


def test_it_counts_what_is_in_a_small_input(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", rows(5))
    with path.open("ab") as file:
        file.write(b"not json\n")
    made = plan(recipe(path, tmp_path / "out"))
    assert [file.path for file in made.files] == [str(path)]
    assert (made.sample_rows, made.sample_groups, made.sample_candidates) == (6, 5, 15)
    assert (made.sample_dead_letters, made.dead_letters) == (1, {"invalid_json": 1})
    assert made.estimate == ["about 15 candidates (the sample is 100.0% of the input by bytes)"]
    assert made.first == []


def test_it_writes_nothing(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", rows(3))
    plan(recipe(tmp_path / "in", tmp_path / "out"))
    assert files_below(tmp_path) == {"in/a.jsonl"}
    assert not (tmp_path / "out").exists()


def test_a_large_input_is_estimated_from_its_head(tmp_path: Path) -> None:
    (row,) = rows(1, 2)
    path = write_jsonl(tmp_path / "in.jsonl", [{**row, "prompt_id": f"p{number:03}"} for number in range(200)])
    made = plan(recipe(path, tmp_path / "out", "input.split_rows=50"))
    assert made.sample_rows == 50
    assert made.estimate == ["about 400 candidates (the sample is 25.0% of the input by bytes)"]


def test_the_rows_of_parquet_are_exact_and_the_candidates_have_their_error(tmp_path: Path) -> None:
    data = [{**row, "candidates": row["candidates"][: 1 + number % 3]} for number, row in enumerate(rows(90))]
    path = write_parquet(tmp_path / "in.parquet", data)
    [line] = plan(recipe(path, tmp_path / "out")).estimate
    assert line == "180 candidates (exactly 90 rows by the Parquet footers, all of them in the sample)"
    [line] = plan(recipe(path, tmp_path / "out", "input.split_rows=30")).estimate
    # Nobody can tell from one split how splits differ.
    assert line == "about 180 candidates (exactly 90 rows by the Parquet footers, 30 of them in the sample)"


def test_an_estimate_is_as_sure_as_splits_are_alike(tmp_path: Path) -> None:
    # Eight files of two splits of ten rows; the rows of a file have the same number of candidates.
    for index, many in enumerate([1, 1, 3, 3, 1, 1, 3, 3]):
        data = [{**row, "candidates": row["candidates"][:many]} for row in rows(20)]
        write_parquet(tmp_path / "in" / f"{index}.parquet", data)
    [line] = plan(recipe(tmp_path / "in", tmp_path / "out", "input.split_rows=10")).estimate
    # Looked at: 10 rows with 10, 30, 10 and 30 candidates. Their standard deviation is 20 / sqrt(3); of 16 splits the
    # total is off by 16 * 20 / sqrt(3) / sqrt(4) * sqrt(1 - 4 / 16) = 80, and 3.182 of that with three degrees of
    # freedom. Were the 40 rows a random sample, it would be 44.
    assert line == "about 320 candidates, ± 255 (exactly 160 rows by the Parquet footers, 40 of them in the sample)"


def test_real_parquet_is_estimated_rightly(shared: Path, tmp_path: Path) -> None:
    names = {"candidates": "outputs"}
    fields = {"candidate_id": "output_id", "messages": "content"}
    for name, rows_of, candidates in (("vicuna80", 60, "2,160"), ("gsm8k", 869, "about 3,476")):
        config = {"path": str(shared / f"data/medium/{name}.parquet"), "columns": names, "candidate_fields": fields}
        [line] = plan(recipe(config["path"], tmp_path / "out", input=config)).estimate  # type: ignore[arg-type]
        assert line.startswith(f"{candidates} candidates (exactly {rows_of} rows")


def test_several_files_are_sampled_across_the_listing(tmp_path: Path) -> None:
    for index in range(8):
        write_jsonl(tmp_path / "in" / f"{index}.jsonl", rows(index + 1))
    made = plan(recipe(tmp_path / "in", tmp_path / "out"))
    assert len(made.files) == 8
    assert made.sample_rows == 1 + 3 + 5 + 7


def test_the_first_candidate_is_shown_as_the_model_would_see_it(tmp_path: Path) -> None:
    cases = json.loads((TESTS / "golden/polar/encode_cases.json").read_text())["cases"]
    case = next(case for case in cases if case["name"] == "readme_same")
    ids = case["input_ids"]
    row = {
        "prompt_id": "p",
        "prompt": case["data"]["prompt"],
        "reference": case["data"]["reference"],
        "candidates": [{"candidate_id": "c", "messages": case["data"]["output"]}],
    }
    write_jsonl(tmp_path / "in.jsonl", [row])
    made = plan(recipe(tmp_path / "in.jsonl", tmp_path / "out", scorer=TINY_POLAR))
    (first,) = made.first
    assert first.ids.tolist() == ids
    assert first.text == "<s>" + case["encoded"]
    assert made.sample_tokens == len(ids)
    assert made.estimate[1] == f"about {len(ids)} tokens, {len(ids)} per candidate"


@pytest.mark.parametrize("layout", ["candidates", "scattered"])
def test_a_row_per_candidate_can_be_planned(tmp_path: Path, layout: str) -> None:
    lines = candidate_rows(4)
    write_parquet(tmp_path / "in" / "a.parquet", lines[:6])
    write_parquet(tmp_path / "in" / "b.parquet", lines[6:])
    made = plan(recipe(tmp_path / "in", tmp_path / "out", f"input.layout={layout}", scorer=TINY_POLAR))
    assert (made.sample_rows, made.sample_groups, made.sample_candidates) == (12, 4, 12)
    assert made.sample_dead_letters == 0
    assert "question 0" in made.first[0].text


def test_an_input_of_dead_letters_only_is_planned(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{**row, "candidates": []} for row in rows(3)])
    made = plan(recipe(tmp_path / "in.jsonl", tmp_path / "out"))
    assert made.sample_dead_letters == 3
    assert made.estimate == ["no candidates in the sample"]


def test_a_sample_of_which_nothing_becomes_a_group_is_refused_as_far_as_the_limits_go(tmp_path: Path) -> None:
    lists = [{**row, "candidates": [[{"role": "assistant", "content": "sunny"}]]} for row in rows(2)]
    path = write_jsonl(tmp_path / "in.jsonl", [*lists, {"prompt": "p"}])
    made = plan(recipe(path, tmp_path / "out"))
    said = f"row 0 of {path}: candidates[0] is a list, not an object or a string"
    assert str(made.examples["candidate_type"]) == said
    assert str(made.refusal).startswith(
        f"nothing in the sample becomes a group: 3 of its 3 rows would be dead letters (candidate_type 2 [{said}], "
        f"candidates_missing 1 [row 2 of {path}: "
    )
    for limit in ("1", "3"):
        assert (plan(recipe(path, tmp_path / "out", f"limits.max_dead_letters={limit}")).refusal is None) == (
            limit > "1"
        )
    write_jsonl(path, [*lists, *rows(1)])
    assert plan(recipe(path, tmp_path / "out")).refusal is None


def test_rows_of_a_prompt_that_stand_apart_are_warned_of(tmp_path: Path) -> None:
    lines = candidate_rows(2)
    path = write_jsonl(tmp_path / "in.jsonl", [*lines[::2], *lines[1::2]])
    warnings = plan(recipe(path, tmp_path / "out", "input.layout=candidates")).warnings
    assert warnings == [
        "3 rows of the sample would be lost; set input.layout=scattered, as the rows of a prompt are not all next to "
        "each other"
    ]
    assert plan(recipe(path, tmp_path / "out", "input.layout=scattered")).warnings == []


def test_the_resolved_recipe_is_part_of_the_plan(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", rows(1))
    wanted = recipe(tmp_path / "in.jsonl", tmp_path / "out", "input.split_rows=7")
    assert Recipe.of(yaml.safe_load(plan(wanted).recipe_yaml)) == wanted


def test_an_input_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Check input"):
        plan(recipe(tmp_path / "nowhere", tmp_path / "out"))
