"""Deriving from what the main job left, and by the command line."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import rows, write_jsonl
from processes import COMMAND
from runs import recipe
from score_tables import group, score_table, write_run

from polar_ray.deriving.derive import derive
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.running.run import run

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("embedded_ray")
def test_pairs_come_from_the_table_that_a_run_left_and_from_nothing_else(tmp_path: Path) -> None:
    scored = tmp_path / "scored"
    source = write_jsonl(tmp_path / "in.jsonl", rows(5, candidates=3))
    scorers = {"length": {"kind": "length"}, "closeness": {"kind": "text_closeness"}}
    run(recipe(source, scored, "input.split_rows=2", scorers=scorers))
    source.unlink()
    shutil.rmtree(scored / "_run")
    data = {
        "run": {"path": str(scored)},
        "reward": {"scorer": "length"},
        "pairs": {},
        "export": {"kind": "trl_preference"},
        "output": {"path": str(tmp_path / "pairs")},
    }
    manifest = derive(DeriveRecipe.of(data))
    lines = (tmp_path / "pairs" / "data" / "train" / "part-00000.jsonl").read_text(encoding="utf-8").splitlines()
    made = [json.loads(line) for line in lines]
    # Candidate c of group g has 10 g + c characters; the first of all is empty.
    assert [(row["prompt_id"], row["chosen_id"], row["rejected_id"], row["margin"]) for row in made] == [
        ("p0000", "c2", "c1", 1.0),
        *((f"p{number:04d}", "c2", "c0", 2.0) for number in range(1, 5)),
    ]
    assert manifest.removed_candidates == {"empty_text": 1}
    assert set(manifest.parent.fingerprints) == {"length", "closeness"}


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "derive", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )


def test_the_command_prints_counts_and_reasons_and_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    rewards: list[list[float | None]] = [[1.0, 0.0], [1.0], [0.5, 0.5], [None, 1.0], [2.0, 1.0]]
    table = score_table([group(f"p{number}", each) for number, each in enumerate(rewards)])
    scored = write_run(tmp_path / "run", table, part_rows=1)
    result = command("pipelines/pairs.yaml", f"run.path={scored}", f"output.path={tmp_path / 'out'}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "2 rows from 5 prompts with 9 candidates",
        "conservation: 5 prompts = 2 with rows + 3 without",
        "  without, no_reward: 1",
        "  without, tie: 1",
        "  without, too_few_candidates: 1",
        "candidates left out: no_reward 1",
        "pairs left out: tie 1",
        f"dataset: {tmp_path / 'out'}",
        "LOADED",
    ]


def test_a_killed_derivation_leaves_no_process_and_the_next_one_is_whole(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    table = score_table([group(f"p{number}", draw.normal(size=60).tolist()) for number in range(60)])
    scored = write_run(tmp_path / "run", table, part_rows=1)
    pairs = "pairs={strategy: {kind: all_pairs}, per_prompt: 1000}"
    arguments = ["pipelines/pairs.yaml", f"run.path={scored}", pairs, "compute.processes=2", "files.shard_rows=5000"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "derive", *arguments, f"output.path={tmp_path / 'killed'}"],
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )
    waited = time.monotonic()
    while not list((tmp_path / "killed" / "data").glob("*/part-*")):
        assert process.poll() is None
        assert time.monotonic() - waited < 120
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "manifest.json").exists()
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    for name in ("killed", "whole"):
        assert command(*arguments, f"output.path={tmp_path / name}").returncode == 0
    killed, whole = (
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("part-*")}
        for name in ("killed", "whole")
    )
    assert killed == whole
    assert len(killed) >= 10


def test_a_wrong_recipe_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    result = command("pipelines/pairs.yaml", "pairs.min_margn=1")
    assert result.returncode == 1
    assert result.stderr == (
        "polar-ray: RecipeError: pipelines/pairs.yaml: unknown key pairs.min_margn; did you mean pairs.min_margin?\n"
    )


@pytest.mark.parametrize(("job", "rows_made"), [("build_pairs", 1), ("best_of_n", 2)])
def test_the_jobs_take_their_recipe_by_themselves(tmp_path: Path, job: str, rows_made: int) -> None:
    scored = write_run(tmp_path / "run", score_table([group("p", [1.0, 0.0]), group("q", [1.0])]))
    arguments = [f"jobs/{job}.py", f"run.path={scored}", f"output.path={tmp_path / 'out'}", "compute.processes=1"]
    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]["rows"] == rows_made
