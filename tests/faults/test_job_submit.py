"""The job through ``ray job submit``: progress as log lines, the exit code, stopped and submitted again."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from clusters import RAY, Cluster, cluster, free_port
from conftest import rows, write_jsonl
from processes import command, commits, wait_for
from ray.job_submission import JobStatus, JobSubmissionClient
from score_tables import group, score_table, write_run

from polar_ray.data.scores import read_scores

SCORE = Path(__file__).parents[2] / "jobs" / "score.py"
GROUPS = 60

SCORER = """
import time

from polar_ray import CandidateScore, TextScorer


class Patient(TextScorer):
    def score_group(self, group):
        time.sleep(0.1)
        return [CandidateScore(float(len(candidate.text))) for candidate in group.candidates]
"""


@pytest.fixture(scope="module")
def dashboard() -> Iterator[tuple[Cluster, str]]:
    """A cluster and the address of its dashboard, which takes jobs."""
    port = free_port()
    with cluster("--num-cpus=3", "--include-dashboard=true", f"--dashboard-port={port}") as started:
        yield started, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def working_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a user sends along: the entry point, the recipe, a scorer of their own and, as it is small, the input."""
    folder = tmp_path_factory.mktemp("working_dir")
    (folder / "jobs").mkdir()
    shutil.copy(SCORE, folder / "jobs")
    (folder / "patient.py").write_text(SCORER)
    write_jsonl(folder / "in.jsonl", rows(GROUPS))
    recipe = {
        "input": {"path": "in.jsonl", "split_rows": 2},
        "scorer": {"kind": "custom", "target": "patient:Patient"},
        "output": {"path": "given on the command line"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def submit(address: str, working_dir: Path, name: str, *overrides: str) -> list[str]:
    """Returns the command line that submits the job and waits for it."""
    options = [f"--address={address}", f"--submission-id={name}", f"--working-dir={working_dir}"]
    return [RAY, "job", "submit", *options, "--", sys.executable, "jobs/score.py", "recipe.yaml", *overrides]


@pytest.mark.slow
def test_a_submitted_job_that_is_stopped_and_submitted_again_finishes_what_it_began(
    dashboard: tuple[Cluster, str], working_dir: Path, tmp_path: Path
) -> None:
    ray, address = dashboard
    out = tmp_path / "out"
    jobs = JobSubmissionClient(address)
    first = submit(address, working_dir, "first", f"output.path={out}")
    with command(first, tmp_path / "first.log", ray.environment) as running:
        wait_for("three commits", lambda: commits(out) >= 3 or running.popen.poll() is not None)
        assert running.popen.poll() is None, running.output
        jobs.stop_job("first")
        running.wait()
    assert jobs.get_job_status("first") == JobStatus.STOPPED
    assert "polar-ray: terminated; run the same command again to go on" in jobs.get_job_logs("first")
    assert not (out / "manifest.json").exists()

    second = submit(address, working_dir, "second", f"output.path={out}")
    with command(second, tmp_path / "second.log", ray.environment) as running:
        assert running.wait() == 0, running.output
        said = running.output
    assert jobs.get_job_status("second") == JobStatus.SUCCEEDED
    resumed = json.loads((out / "manifest.json").read_text())["resumed_splits"]
    assert 3 <= resumed < GROUPS // 2
    assert f"resuming: {resumed} splits" in said
    # A line every few seconds, and no bar.
    assert "% first split committed" in said
    assert f"conservation: {GROUPS} rows read = {GROUPS} in groups" in said
    table = read_scores(str(out), columns=["prompt_id", "reward"]).to_pydict()
    assert table["prompt_id"] == [f"p{group:04d}" for group in range(GROUPS)]
    assert table["reward"] == [[float(10 * group + candidate) for candidate in range(3)] for group in range(GROUPS)]


def test_a_job_that_derives_works_on_the_cluster_that_it_was_submitted_to(
    dashboard: tuple[Cluster, str], tmp_path: Path
) -> None:
    ray, address = dashboard
    project = tmp_path / "project"
    for name in ("jobs/build_pairs.py", "pipelines/pairs.yaml"):
        (project / name).parent.mkdir(parents=True)
        shutil.copy(SCORE.parents[1] / name, project / name)
    scored = write_run(tmp_path / "run", score_table([group("p", [1.0, 0.0]), group("q", [1.0])]))
    options = [f"--address={address}", "--submission-id=pairs", f"--working-dir={project}"]
    places = [f"run.path={scored}", f"output.path={tmp_path / 'pairs'}"]
    submitted = [RAY, "job", "submit", *options, "--", sys.executable, "jobs/build_pairs.py", *places]
    with command(submitted, tmp_path / "pairs.log", ray.environment) as running:
        assert running.wait() == 0, running.output
        assert "1 rows from 2 prompts with 3 candidates" in running.output
    # A job has a driver once its process has connected to the cluster.
    assert JobSubmissionClient(address).get_job_info("pairs").driver_info is not None


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("compute.actor.max=2", "unknown key compute.actor; did you mean actors?"),
        ("output.path=out", "output: out is a relative path, and the working directory of a submitted job is"),
    ],
)
def test_a_recipe_that_is_wrong_fails_the_job_with_one_sentence(
    dashboard: tuple[Cluster, str], working_dir: Path, tmp_path: Path, override: str, sentence: str
) -> None:
    ray, address = dashboard
    name = override.partition(".")[0]
    wrong = submit(address, working_dir, name, f"output.path={tmp_path / 'out'}", override)
    with command(wrong, tmp_path / "wrong.log", ray.environment) as running:
        assert running.wait() != 0
        said = running.output
    assert JobSubmissionClient(address).get_job_status(name) == JobStatus.FAILED
    assert "polar-ray: RecipeError: " in said
    assert sentence in said
    assert "Traceback" not in said
