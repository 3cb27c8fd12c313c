"""Jobs through ``ray job submit``: every script of ``jobs/``, the commands of the manifests and the unit as written,
progress as log lines, the exit code, stopped and submitted again.
"""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from clusters import RAY, Cluster, cluster, free_port
from conftest import rows, write_jsonl, write_parquet
from processes import command, commits, wait_for
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from runs import TINY_POLAR
from s3_server import Bucket, bucket
from score_tables import group, score_table, write_run
from shipped import ROOT, commands, container, manifest

from polar_ray import latest_version
from polar_ray.data.scores import read_scores

SCORE = ROOT / "jobs" / "score.py"
POLAR_RAY = str(Path(sys.executable).parent / "polar-ray")
RECIPES = {f"/recipes/{path.name}": str(path) for path in (ROOT / "pipelines").glob("*.yaml")}
"""Where the image has a recipe, and where it lies here."""
GROUPS = 60

SCORER = """
import time

from polar_ray import CandidateScore, TextScorer


class Patient(TextScorer):
    def score_group(self, group):
        time.sleep(0.1)
        return [CandidateScore(float(len(candidate.text))) for candidate in group.candidates]
"""


@dataclass(frozen=True)
class Submitted:
    """A job that has ended."""

    info: JobDetails
    logs: str

    @property
    def status(self) -> JobStatus:
        return self.info.status


@dataclass(frozen=True)
class Dashboard:
    """A cluster that takes jobs at an address, and the bucket that its processes know."""

    cluster: Cluster
    address: str
    bucket: Bucket

    @property
    def environment(self) -> dict[str, str]:
        return self.cluster.environment

    def run(self, entrypoint: str, working_dir: Path | None = None) -> Submitted:
        """Submits a job, as KubeRay does over HTTP, and waits for its end."""
        client = JobSubmissionClient(self.address)
        sent = {} if working_dir is None else {"working_dir": str(working_dir)}
        name = client.submit_job(entrypoint=entrypoint, runtime_env=sent)
        wait_for("the job", lambda: client.get_job_status(name).is_terminal(), every_s=0.2)
        return Submitted(client.get_job_info(name), client.get_job_logs(name))


@pytest.fixture(scope="module")
def dashboard() -> Iterator[Dashboard]:
    """One cluster for all tests of this module; what the manifests call is on its path, as in their image."""
    port = free_port()
    with bucket() as s3:
        path = os.pathsep.join([str(Path(POLAR_RAY).parent), os.environ["PATH"]])
        options = ("--num-cpus=3", "--include-dashboard=true", f"--dashboard-port={port}")
        with cluster(*options, environment={**s3.environment, "PATH": path}) as started:
            yield Dashboard(started, f"http://127.0.0.1:{port}", s3)


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


def sent_along(folder: Path, script: str, recipe: str) -> Path:
    """Makes a folder with what is sent along with a job: one of the scripts and its recipe."""
    for name in (f"jobs/{script}.py", f"pipelines/{recipe}.yaml"):
        (folder / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def mapped(entrypoint: str) -> str:
    """Returns the command of a manifest with the recipes where they lie here, not in the image."""
    words = shlex.split(entrypoint)
    assert words[2] in RECIPES
    return shlex.join(RECIPES.get(word, word) for word in words)


def lines(data: list[dict[str, Any]]) -> bytes:
    return b"".join(msgspec.json.encode(row) + b"\n" for row in data)


def best(version: str) -> list[str]:
    """Returns the prompts of a version's best answers, sorted."""
    files = Path(version, "best", "data").glob("*/*.jsonl")
    found = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return sorted(row["messages"][0]["content"] for row in found)


def submit(address: str, working_dir: Path, name: str, *overrides: str) -> list[str]:
    """Returns the command line that submits the job and waits for it."""
    options = [f"--address={address}", f"--submission-id={name}", f"--working-dir={working_dir}"]
    return [RAY, "job", "submit", *options, "--", sys.executable, "jobs/score.py", "recipe.yaml", *overrides]


@pytest.mark.slow
def test_a_submitted_job_that_is_stopped_and_submitted_again_finishes_what_it_began(
    dashboard: Dashboard, working_dir: Path, tmp_path: Path
) -> None:
    ray, address = dashboard.cluster, dashboard.address
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


@pytest.mark.parametrize(
    ("script", "recipe", "said"),
    [
        ("build_pairs", "pairs", "1 rows from 2 prompts with 3 candidates"),
        # The lowest quarter of all rewards goes: nothing here is in it.
        ("best_of_n", "best_of_n", "2 rows from 2 prompts with 3 candidates"),
    ],
)
def test_a_job_that_derives_works_on_the_cluster_that_it_was_submitted_to(
    dashboard: Dashboard, tmp_path: Path, script: str, recipe: str, said: str
) -> None:
    project = sent_along(tmp_path / "project", script, recipe)
    scored = write_run(tmp_path / "run", score_table([group("p", [1.0, 0.0]), group("q", [1.0])]))
    places = f"run.path={scored} output.path={tmp_path / 'derived'}"
    job = dashboard.run(f"{sys.executable} jobs/{script}.py {places}", project)
    assert job.status == JobStatus.SUCCEEDED, job.logs
    assert said in job.logs
    # A job has a driver once its process has connected to the cluster.
    assert job.info.driver_info is not None


def test_three_ticks_of_a_curation_publish_what_is_new_and_then_say_that_nothing_is(
    dashboard: Dashboard, tmp_path: Path
) -> None:
    project = sent_along(tmp_path / "project", "curate", "curate_nightly")
    data, out = rows(5), tmp_path / "curated"
    places = f"input.path={tmp_path}/in/*.jsonl output.path={out}"

    def tick() -> str:
        job = dashboard.run(f"{sys.executable} jobs/curate.py {places}", project)
        assert job.status == JobStatus.SUCCEEDED, job.logs
        return job.logs

    write_jsonl(tmp_path / "in" / "a.jsonl", data[:2])
    assert f"published {out}/versions/" in tick()
    first = latest_version(str(out))
    assert best(first) == ["question 0", "question 1"]
    write_jsonl(tmp_path / "in" / "b.jsonl", data[2:])
    assert "2 shards are scored" in tick()
    second = latest_version(str(out))
    assert second > first
    assert best(second) == [f"question {number}" for number in range(5)]
    assert f"no new shards: nothing to do; the latest version is {Path(second).name}" in tick()
    assert latest_version(str(out)) == second


@pytest.mark.slow
def test_the_curations_of_the_manifests_publish_one_after_the_other(dashboard: Dashboard, tmp_path: Path) -> None:
    data, bucket = rows(5), dashboard.bucket
    bucket.put("gens/a.jsonl", lines(data[:2]))
    # As written, but for the address of the cluster and for where the recipes lie.
    arguments = [*container()["command"], *container()["args"]]
    submitted = [RECIPES.get(each, each).replace("http://ray-head-svc:8265", dashboard.address) for each in arguments]
    assert dashboard.address in submitted
    submitted[0] = RAY
    with command(submitted, tmp_path / "cronjob.log", dashboard.environment) as running:
        assert running.wait() == 0, running.output
        assert "published s3://bucket/curated/versions/" in running.output
    first = json.loads(bucket.get("curated/latest.json"))["version"]

    bucket.put("gens/b.jsonl", lines(data[2:]))
    job = dashboard.run(mapped(manifest("raycronjob")["spec"]["jobTemplate"]["entrypoint"]))
    assert job.status == JobStatus.SUCCEEDED, job.logs
    assert "2 shards are scored" in job.logs
    second = json.loads(bucket.get("curated/latest.json"))["version"]
    assert second > first
    version = json.loads(bucket.get(f"curated/versions/{second}/version.json"))
    assert (version["new"], version["groups"]) == (["s3://bucket/gens/b.jsonl"], 5)
    assert version["datasets"]["best"] == 5


@pytest.mark.slow
def test_the_run_of_the_manifest_scores_what_lies_in_the_bucket(dashboard: Dashboard, tmp_path: Path) -> None:
    dashboard.bucket.put("gens/a.parquet", write_parquet(tmp_path / "a.parquet", rows(2)).read_bytes())
    # As written, but for the model, of which a tiny one with random weights stands in.
    tiny = " ".join(f"scorer.{name}={TINY_POLAR[name]}" for name in ("model", "dtype", "device", "self_check"))
    job = dashboard.run(f"{mapped(manifest('rayjob')['spec']['entrypoint'])} {tiny}")
    assert job.status == JobStatus.SUCCEEDED, job.logs
    assert "conservation: 2 rows read = 2 in groups" in job.logs
    assert json.loads(dashboard.bucket.get("scored/manifest.json"))["counts"]["statuses"] == {"": {"ok": 6}}


def test_the_unit_of_systemd_runs_a_tick(dashboard: Dashboard, tmp_path: Path) -> None:
    program, *arguments = commands()["systemd"]
    assert program == "/opt/polar-ray/bin/polar-ray"
    recipe = yaml.safe_load((ROOT / "pipelines" / "curate_nightly.yaml").read_text(encoding="utf-8"))
    recipe["input"]["path"], recipe["output"]["path"] = f"{tmp_path}/in", f"{tmp_path}/curated"
    (tmp_path / "curate_nightly.yaml").write_text(yaml.safe_dump(recipe))
    write_jsonl(tmp_path / "in" / "a.jsonl", rows(2))
    installed = [POLAR_RAY, *(each.replace("/etc/polar-ray/", f"{tmp_path}/") for each in arguments)]
    # The cluster of this module saves the start of another.
    environment = {**dashboard.environment, "RAY_ADDRESS": dashboard.cluster.address}
    with command(installed, tmp_path / "unit.log", environment) as running:
        assert running.wait() == 0, running.output
    assert best(latest_version(f"{tmp_path}/curated")) == ["question 0", "question 1"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("compute.actor.max=2", "unknown key compute.actor; did you mean compute.actors?"),
        ("output.path=out", "output: out is a relative path, and the working directory of a submitted job is"),
    ],
)
def test_a_recipe_that_is_wrong_fails_the_job_with_one_sentence(
    dashboard: Dashboard, working_dir: Path, tmp_path: Path, override: str, sentence: str
) -> None:
    ray, address = dashboard.cluster, dashboard.address
    name = override.partition(".")[0]
    wrong = submit(address, working_dir, name, f"output.path={tmp_path / 'out'}", override)
    with command(wrong, tmp_path / "wrong.log", ray.environment) as running:
        assert running.wait() != 0
        said = running.output
    assert JobSubmissionClient(address).get_job_status(name) == JobStatus.FAILED
    assert "polar-ray: RecipeError: " in said
    assert sentence in said
    assert "Traceback" not in said
