"""An error that would hit every group stops the run with its cause; one that hits a group stays with that group."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import free_port
from conftest import rows, write_jsonl
from processes import command, commits, polar_ray, wait_for, with_title, workers

from polar_ray.data.scores import read_scores
from polar_ray.errors import CheckpointError, RecipeError, RunStalled, ScoringError, StorageFault, TooManyDeadLetters
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.manifest import Manifest
from polar_ray.running.progress import Silent
from polar_ray.running.run import run

pytestmark = pytest.mark.usefixtures("embedded_ray")


def faulty(name: str, **settings: Any) -> dict[str, Any]:
    return {"kind": "custom", "target": f"faulty:{name}", "settings": settings}


def recipe_of(folder: Path, data: list[dict[str, Any]], scorer: dict[str, Any], **parts: Any) -> dict[str, Any]:
    """A recipe that scores rows, two to a split, into ``folder/out``."""
    return {
        "input": {"path": str(write_jsonl(folder / "in.jsonl", data)), "split_rows": 2},
        "scorer": scorer,
        "output": {"path": str(folder / "out")},
        **parts,
    }


def score(*arguments: Any, **parts: Any) -> Manifest:
    return run(Recipe.of(recipe_of(*arguments, **parts)))


def assert_healthy(folder: Path) -> None:
    """The same Ray runs the next recipe: what failed has left nothing behind that is in the way."""
    manifest = score(folder / "next", rows(3), {"kind": "length"})
    assert manifest.counts["groups"] == 3


def test_a_scorer_that_cannot_start_stops_the_run_with_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^model.safetensors has no v_head.weight$"):
        score(tmp_path, rows(6), faulty("CannotStart"))
    assert commits(tmp_path / "out") == 0
    assert_healthy(tmp_path)


def test_the_command_line_says_in_one_sentence_why_a_scorer_cannot_start(
    tmp_path: Path, ray_environment: dict[str, str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(tmp_path, rows(6), faulty("CannotStart"))))
    with command(polar_ray("run", str(recipe)), tmp_path / "log", ray_environment) as running:
        assert running.wait() == 1
        said = [line for line in running.output.splitlines() if "%" not in line]
    assert said == ["polar-ray: CheckpointError: model.safetensors has no v_head.weight"]


def test_a_scorer_whose_process_dies_when_it_starts_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="died 3 times in a row before it could score"):
        score(tmp_path, rows(6), faulty("DiesStarting"))
    assert_healthy(tmp_path)


def test_a_scorer_that_finds_out_later_that_it_cannot_work_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^model.safetensors was deleted$"):
        score(tmp_path, rows(6), faulty("CannotWork"))
    assert commits(tmp_path / "out") == 0
    assert_healthy(tmp_path)


def test_an_exception_on_every_group_stops_the_run_and_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="ValueError: no number in this answer"):
        score(tmp_path, rows(6), faulty("Raises", always=True))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_exception_on_every_group_stops_a_long_run_early(tmp_path: Path) -> None:
    # Two groups of three candidates to a split: the hundredth candidate is in the 17th of 200 splits.
    with pytest.raises(ScoringError, match="ValueError: no number in this answer"):
        score(tmp_path, rows(400), faulty("Raises", always=True))
    assert commits(tmp_path / "out") < 150


def test_an_exception_on_one_group_stays_with_that_group(tmp_path: Path) -> None:
    data = rows(7)
    for index in (2, 3, 6):  # both groups of a split, and one that is alone in its split
        data[index]["prompt"][0]["content"] = "a bad question"
    manifest = score(tmp_path, data, faulty("Raises"))
    assert manifest.counts["statuses"] == {"": {"error": 9, "ok": 12}}
    for index, row in enumerate(read_scores(str(tmp_path / "out")).to_pylist()):
        if index in (2, 3, 6):
            assert row["status"] == ["error"] * 3
            assert row["reward"] == row["rank"] == [None] * 3
            assert all("ValueError: no number in this answer" in message for message in row["error"])
        else:
            assert row["status"] == ["ok"] * 3
            assert row["reward"] == [float(10 * index + candidate) for candidate in range(3)]
            assert row["error"] == [None] * 3


def test_an_actor_all_of_whose_groups_fail_is_replaced_and_its_split_scored_again(tmp_path: Path) -> None:
    manifest = score(tmp_path, rows(12), faulty("SickOnce", marker=str(tmp_path / "seen")))
    assert manifest.counts["statuses"] == {"": {"ok": 36}}
    lengths = [[float(10 * group + candidate) for candidate in range(3)] for group in range(12)]
    assert read_scores(str(tmp_path / "out"))["reward"].to_pylist() == lengths


def test_an_actor_that_fails_on_half_of_its_groups_is_replaced_before_the_run_is_given_up(tmp_path: Path) -> None:
    data, scorer = rows(60, candidates=4), faulty("HalfSickOnce", marker=str(tmp_path / "seen"))
    manifest = score(tmp_path, data, scorer)
    # Splits of two groups, of which one fails: the thirteenth failed group is the first of a new process.
    assert manifest.counts["statuses"] == {"": {"error": 48, "ok": 192}}


def test_errors_beyond_the_limit_stop_the_run_and_a_higher_limit_lets_it_go_on(tmp_path: Path) -> None:
    data = rows(120)
    for row in data[1::2]:
        row["prompt"][0]["content"] = "a bad question"
    recipe = recipe_of(tmp_path, data, faulty("Raises"))
    with pytest.raises(
        ScoringError, match=r"have errors, more than limits\.max_errors=0\.05 allows; one of them: ValueE"
    ):
        run(Recipe.of(recipe))
    assert not (tmp_path / "out" / "manifest.json").exists()
    # Three candidates of each split of six have errors; the limit holds from the hundredth on.
    assert commits(tmp_path / "out") >= 34
    manifest = run(Recipe.of(recipe, ["limits.max_errors=0.5"]))
    assert manifest.counts["statuses"] == {"": {"error": 180, "ok": 180}}
    assert manifest.resumed_splits >= 34


def test_a_score_too_many_is_an_error_of_its_group_and_shifts_no_other(tmp_path: Path) -> None:
    data = rows(6)
    data[2]["prompt"][0]["content"] = "a bad question"
    data[3]["prompt"][0]["content"] = "an odd question"
    recipe = recipe_of(tmp_path, data, faulty("Miscounts"))
    recipe["input"]["split_rows"] = 6
    manifest = run(Recipe.of(recipe))
    assert manifest.counts["statuses"] == {"": {"error": 3, "non_finite": 1, "ok": 14}}
    for index, row in enumerate(read_scores(str(tmp_path / "out")).to_pylist()):
        lengths: list[float | None] = [float(10 * index + candidate) for candidate in range(3)]
        if index == 2:
            assert row["status"] == ["error"] * 3
            assert row["error"] == ["Miscounts gave for group 'p0002' 4 scores for 3 candidates"] * 3
            lengths = [None] * 3
        elif index == 3:
            lengths[0] = None
        assert row["reward"] == lengths


def test_a_scorer_that_adds_a_column_which_is_there_anyway_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^AddsRank adds rank, which is a column of the score table"):
        score(tmp_path, rows(2), faulty("AddsRank"))


def test_a_scorer_that_compares_with_references_stops_an_input_that_has_none(tmp_path: Path) -> None:
    data = [{**row, "reference": None} for row in rows(6)]
    with pytest.raises(ScoringError, match=r"no_reference.*input\.columns\.reference"):
        score(tmp_path, data, {"kind": "text_closeness"})


def test_a_run_in_which_nothing_moves_ends(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(RunStalled, match=r"limits\.no_progress_s.*run the same command again"):
        score(tmp_path, rows(6), faulty("Hangs"), limits={"no_progress_s": 3})
    # The scorer would sleep for an hour.
    assert time.monotonic() - started < 300
    wait_for("the hanging actor to end", lambda: not with_title("ray::MapWorker", workers()))
    assert_healthy(tmp_path)


class Breaks(Silent):
    """Puts a file where the folder of the score table should be."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, done_share: float) -> None:
        (self._folder / "scores").write_text("in the way")


def test_storage_that_fails_stops_the_run_and_is_named(tmp_path: Path) -> None:
    recipe = Recipe.of(recipe_of(tmp_path, rows(6), {"kind": "length"}))
    said = r"out/scores/part-00000-0000.\.parquet cannot be written: .*out/scores"
    with pytest.raises(StorageFault, match=said):
        run(recipe, reporter=Breaks(tmp_path / "out"))
    (tmp_path / "out" / "scores").unlink()
    assert run(recipe).counts["groups"] == 6


@pytest.mark.parametrize(
    ("garbage", "limit", "splits"),
    # A number stops at once; a share is taken seriously from the thousandth row on.
    [(12, 5, 2), (1200, 0.5, 20)],
    ids=["count", "share"],
)
def test_an_input_of_garbage_stops_the_run_early(garbage: int, limit: float, splits: int, tmp_path: Path) -> None:
    data = [{"nothing": index} for index in range(garbage)] + rows(400)
    split_rows = garbage // splits
    recipe = recipe_of(tmp_path, data, faulty("Slow", seconds=0.05), limits={"max_dead_letters": limit})
    recipe["input"]["split_rows"] = split_rows
    with pytest.raises(TooManyDeadLetters, match=rf"prompt_missing.*limits\.max_dead_letters={limit:g}"):
        run(Recipe.of(recipe))
    assert commits(tmp_path / "out") < len(data) // split_rows
    assert list((tmp_path / "out" / "dead_letters").glob("*.parquet"))


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "no-such-host.invalid:6379"])
def test_a_cluster_that_is_not_there_is_named_at_once(address: str, tmp_path: Path) -> None:
    nobody = address.format(port=free_port())
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(tmp_path, rows(2), {"kind": "length"}, compute={"address": nobody})))
    with command(polar_ray("run", str(recipe)), tmp_path / "log") as running:
        assert running.wait() == 1
        said = running.output
    assert said.startswith(f"polar-ray: ClusterUnreachable: there is no Ray cluster at {nobody}: ")
    assert "correct compute.address" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
