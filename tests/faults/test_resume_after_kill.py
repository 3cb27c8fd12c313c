"""Law 2: a run that was killed anywhere and started again leaves what an undisturbed run leaves."""

import json
import random
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import rows, write_jsonl, write_parquet
from processes import command, commits, contents, gone, polar_ray, wait_for

from polar_ray.recipe.recipe import Recipe
from polar_ray.running.run import run

SPLITS = 20


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files with a prompt that is in both, and a row that is no group."""
    folder = tmp_path_factory.mktemp("inputs")
    lines = [json.dumps(row) for row in rows(24)]
    lines.insert(5, '{"prompt_id": "torn", "prompt": [{"role": "us')
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n")
    more = [{**row, "prompt_id": f"q{index}"} for index, row in enumerate(rows(13))]
    more[7]["prompt_id"] = "p0003"
    write_parquet(folder / "b.parquet", more, row_group_size=4)
    return folder


def recipe_of(inputs: Path, output: Path, seconds: float) -> dict[str, Any]:
    return {
        "input": {"path": str(inputs), "split_rows": 2},
        "scorer": {"kind": "custom", "target": "faulty:Slow", "settings": {"seconds": seconds}},
        "output": {"path": str(output)},
    }


@pytest.fixture(scope="module")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    run(Recipe.of(recipe_of(inputs, folder, seconds=0)))
    return folder


def assert_same_as(undisturbed: Path, folder: Path) -> None:
    """The same files with the same bytes, no prompt twice and none lost, and the same sums."""
    assert contents(folder) == contents(undisturbed)
    table = pq.read_table(folder / "scores")
    ids = [f"p{index:04d}" for index in range(24)] + [f"q{index}" for index in range(13) if index != 7]
    assert sorted(table["prompt_id"].to_pylist()) == sorted(ids)
    manifest, expected = (json.loads((path / "manifest.json").read_text()) for path in (folder, undisturbed))
    assert manifest["counts"] == expected["counts"]
    assert manifest["conservation"] == {
        "rows_read": 38,
        "rows_in_groups": 36,
        "dead_letters": 2,
        "drops": 0,
        "holds": True,
    }


def test_a_run_stopped_again_and_again_leaves_what_an_undisturbed_run_leaves(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    description = recipe_of(inputs, folder, seconds=0.2)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(description))
    go_on = "run the same command again to go on"
    stops = [
        (signal.SIGKILL, -signal.SIGKILL, ""),
        (signal.SIGTERM, 143, f"polar-ray: terminated; {go_on}\n"),
        (signal.SIGINT, 130, f"polar-ray: interrupted; {go_on}\n"),
    ]
    before = 0
    with ExitStack() as stack:
        for number, code, last_words in stops:
            log = tmp_path / f"{number.name}.log"
            running = stack.enter_context(command(polar_ray("run", str(recipe)), log))
            wait_for("two more commits", lambda wanted=before + 2: commits(folder) >= wanted)
            family = running.family()
            running.popen.send_signal(number)
            assert running.wait() == code, running.output
            assert running.output.endswith(last_words)
            assert "Traceback" not in running.output
            # Ray's workers outlive a driver that was killed for a few seconds; the next attempt does not wait for
            # them. A driver that was told to stop takes them along.
            if number != signal.SIGKILL:
                gone(family)
            before = commits(folder)
            assert before < SPLITS
            assert not (folder / "manifest.json").exists()
        manifest = run(Recipe.of(description))
    assert manifest.resumed_splits == before
    assert_same_as(undisturbed, folder)


def test_a_run_killed_before_its_manifest_scores_nothing_again(inputs: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(undisturbed, folder)
    (folder / "manifest.json").unlink()
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    manifest = run(Recipe.of(recipe_of(inputs, folder, seconds=0)))
    assert manifest.resumed_splits == SPLITS
    assert manifest.throughput == {"candidates_per_s": 0.0, "tokens_per_s": 0.0}
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert_same_as(undisturbed, folder)


@pytest.mark.slow
def test_a_run_over_scattered_candidates_killed_and_started_again_leaves_the_same(
    tmp_path: Path, embedded_ray: None
) -> None:
    candidates = [
        {"prompt_id": row["prompt_id"], "prompt": row["prompt"], **candidate}
        for row in rows(16)
        for candidate in row["candidates"]
    ]
    random.Random(7).shuffle(candidates)
    data = write_jsonl(tmp_path / "in.jsonl", candidates)

    def scattered(output: str, seconds: float) -> dict[str, Any]:
        recipe = recipe_of(data, tmp_path / output, seconds)
        recipe["input"] |= {"layout": "scattered", "split_rows": 8, "split_bytes": 1500}
        return recipe

    run(Recipe.of(scattered("undisturbed", 0)))
    expected = contents(tmp_path / "undisturbed")
    assert len(expected) > 5

    folder, description = tmp_path / "killed", scattered("killed", 0.3)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(description))
    with command(polar_ray("run", str(recipe)), tmp_path / "killed.log") as running:
        # Before the shuffle the reads are committed, after it the partitions.
        wait_for("three partitions", lambda: len(list(folder.glob("_run/commits/scattered-*"))) >= 3)
        running.family()
        running.popen.kill()
        assert running.wait() == -signal.SIGKILL
        assert len(contents(folder)) < len(expected)
        manifest = run(Recipe.of(description))
    assert contents(folder) == expected
    assert manifest.resumed_splits > 3
    assert manifest.counts["groups"] == 16
    assert manifest.counts["candidates"] == 48
    assert manifest.conservation["holds"]
    ids = pq.read_table(folder / "scores")["prompt_id"].to_pylist()
    assert sorted(ids) == [f"p{index:04d}" for index in range(16)]
