"""The whole job on an object store: a real server, read, written, killed and resumed over HTTP."""

import json
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from conftest import rows, write_jsonl
from moto.server import ThreadedMotoServer
from processes import command, contents, polar_ray, wait_for

from polar_ray.recipe.recipe import Recipe
from polar_ray.running.run import run

SECRET = "only-for-the-tests"
SPLITS = 12


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The URL of an S3 server on this machine."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def s3(endpoint: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="tester", aws_secret_access_key=SECRET, region_name="us-east-1"
    )


@pytest.fixture(scope="module")
def inputs(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same two files in a folder and in the bucket ``gens``."""
    folder = tmp_path_factory.mktemp("inputs")
    s3.create_bucket(Bucket="gens")
    for name, data in (("a.jsonl", rows(12)), ("b.jsonl", rows(12, prompt="other"))):
        if name == "b.jsonl":
            data = [{**row, "prompt_id": "q" + row["prompt_id"]} for row in data]
        s3.upload_file(str(write_jsonl(folder / name, data)), "gens", f"day=1/{name}")
    return folder


def scorer(seconds: float) -> dict[str, Any]:
    return {"kind": "custom", "target": "faulty:Slow", "settings": {"seconds": seconds}}


@pytest.fixture(scope="module")
def on_disk(inputs: Path, tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    """A run over the same files on disk."""
    folder = tmp_path_factory.mktemp("on-disk") / "out"
    data = {
        "input": {"path": str(inputs), "split_rows": 2},
        "scorer": scorer(0),
        "output": {"path": str(folder)},
    }
    run(Recipe.of(data))
    return folder


def download(s3: Any, bucket: str, folder: Path) -> dict[str, bytes]:
    """Returns all objects of a bucket by key, and puts them into a folder."""
    found = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            path = folder / entry["Key"]
            path.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, entry["Key"], str(path))
            found[entry["Key"]] = path.read_bytes()
    return found


def rewards(folder: Path) -> dict[str, list[float]]:
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "scores")
    return dict(zip(table["prompt_id"].to_pylist(), table["reward"].to_pylist(), strict=True))


def test_a_run_on_s3_that_is_killed_and_resumed_is_the_run_on_disk(
    endpoint: str, s3: Any, inputs: Path, on_disk: Path, tmp_path: Path
) -> None:
    s3.create_bucket(Bucket="scored")
    data = {
        "input": {"path": "s3://gens/day=*/*.jsonl", "split_rows": 2},
        "scorer": scorer(0.3),
        "output": {"path": "s3://scored/run"},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(data))
    env = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    def committed() -> int:
        return s3.list_objects_v2(Bucket="scored", Prefix="run/_run/commits/").get("KeyCount", 0)

    with command(polar_ray("run", str(recipe)), tmp_path / "killed.log", env) as running:
        wait_for("three commits", lambda: committed() >= 3, every_s=0.2)
        running.family()
        running.popen.kill()
        assert running.wait() == -signal.SIGKILL
    assert 3 <= committed() < SPLITS
    with command(polar_ray("run", str(recipe)), tmp_path / "resumed.log", env) as running:
        assert running.wait() == 0, running.output
    objects = download(s3, "scored", tmp_path / "scored")
    assert json.loads(objects["run/manifest.json"])["resumed_splits"] >= 3
    assert json.loads(objects["run/manifest.json"])["conservation"]["holds"] is True
    assert rewards(tmp_path / "scored" / "run") == rewards(on_disk)
    # Nothing half-written is left behind: exactly the files that the run on disk has.
    assert {key.removeprefix("run/") for key in objects} == {*contents(on_disk), "manifest.json", "_run/run.json"} | {
        str(path.relative_to(on_disk)) for path in (on_disk / "_run" / "commits").iterdir()
    }
    uploads = s3.list_multipart_uploads(Bucket="scored").get("Uploads", [])
    assert uploads == []


@pytest.mark.usefixtures("embedded_ray")
def test_credentials_in_the_recipe_reach_the_workers_and_are_written_nowhere(
    endpoint: str, s3: Any, inputs: Path, on_disk: Path, tmp_path: Path
) -> None:
    assert "AWS_ENDPOINT_URL" not in os.environ
    s3.create_bucket(Bucket="secretive")
    options = {"endpoint_url": endpoint, "key": "tester", "secret": SECRET, "region": "us-east-1"}
    data = {
        "input": {"path": "s3://gens/day=1", "split_rows": 2, "storage_options": options},
        "scorer": scorer(0),
        "output": {"path": "s3://secretive/run", "storage_options": options},
    }
    manifest = run(Recipe.of(data))
    assert manifest.counts["groups"] == 24
    objects = download(s3, "secretive", tmp_path / "secretive")
    assert rewards(tmp_path / "secretive" / "run") == rewards(on_disk)
    assert [key for key, content in objects.items() if SECRET.encode() in content] == []
