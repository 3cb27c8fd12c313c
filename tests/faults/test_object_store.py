"""The whole job on an object store: input and output on S3, killed and resumed, and credentials told to nobody."""

import json
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from conftest import rows, write_jsonl, write_parquet
from flaky_proxy import FlakyProxy
from moto.server import ThreadedMotoServer
from processes import command, polar_ray, wait_for
from typer.testing import CliRunner

from polar_ray.cli import app
from polar_ray.data.scores import read_scores
from polar_ray.errors import InputError, StorageAway
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.progress import Silent
from polar_ray.running.run import run
from polar_ray.running.tally import Tally

KEY, SECRET = "AKIAKEEPTHISTOYOURSELF", "and-do-not-tell-this-to-anybody"
SPLITS = 16


def serve(port: int) -> ThreadedMotoServer:
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    return server


class Store:
    """A bucket on an S3 server of our own, looked at through a client that is not the one under test."""

    def __init__(self) -> None:
        self._server = serve(port=0)
        host, port = self._server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        self.options = {"endpoint_url": endpoint, "key": KEY, "secret": SECRET, "region": "us-east-1"}
        self.environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket="bucket")

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody answers at the endpoint; then the store is back, with all that it held."""
        self._server.stop()
        yield
        self._server = serve(self._server.get_host_and_port()[1])

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, port = self._server.get_host_and_port()
        return host, port

    def stop(self) -> None:
        self._server.stop()

    def put(self, name: str, path: Path) -> None:
        self.client.put_object(Bucket="bucket", Key=name, Body=path.read_bytes())

    def names(self, prefix: str) -> list[str]:
        listed = self.client.list_objects_v2(Bucket="bucket", Prefix=prefix)
        assert not listed["IsTruncated"]
        return [entry["Key"].removeprefix(prefix) for entry in listed.get("Contents", [])]

    def get(self, name: str) -> bytes:
        body: bytes = self.client.get_object(Bucket="bucket", Key=name)["Body"].read()
        return body

    def contents(self, run: str) -> dict[str, bytes]:
        """Returns the files of the score table and of the dead letters of a run, by name."""
        names = [name for name in self.names(f"{run}/") if name.startswith(("scores/", "dead_letters/"))]
        return {name: self.get(f"{run}/{name}") for name in names}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Two files of input, with one row that is no group."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = Store()
    folder = tmp_path_factory.mktemp("input")
    data = rows(2 * SPLITS - 1)
    half = len(data) // 2
    garbage = {"prompt_id": "nothing"}
    store.put("in/a.jsonl", write_jsonl(folder / "a.jsonl", [*data[:half], garbage]))
    store.put("in/b.parquet", write_parquet(folder / "b.parquet", data[half:]))
    yield store
    store.stop()


def recipe_of(output: str, seconds: float, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "input": {"path": "s3://bucket/in/", "split_rows": 2, "storage_options": options},
        "scorer": {"kind": "custom", "target": "faulty:Slow", "settings": {"seconds": seconds}},
        "output": {"path": f"s3://bucket/{output}", "storage_options": options},
    }


@pytest.fixture(scope="module")
def undisturbed(store: Store, embedded_ray: None) -> dict[str, bytes]:
    """The files of a run whose workers know of the store only what the recipe says."""
    manifest = run(Recipe.of(recipe_of("undisturbed", 0, store.options)))
    assert manifest.counts["groups"] == 2 * SPLITS - 1
    return store.contents("undisturbed")


def test_a_run_with_storage_options_reads_and_writes_where_the_environment_says_nothing(
    store: Store, undisturbed: dict[str, bytes]
) -> None:
    assert len([name for name in undisturbed if name.startswith("scores/")]) == SPLITS
    assert len([name for name in undisturbed if name.startswith("dead_letters/")]) == 1
    table = read_scores("s3://bucket/undisturbed", storage_options=store.options)
    assert table["prompt_id"].to_pylist() == [f"p{group:04d}" for group in range(2 * SPLITS - 1)]
    assert table["reward"].to_pylist() == [
        [float(10 * group + candidate) for candidate in range(3)] for group in range(2 * SPLITS - 1)
    ]
    manifest = json.loads(store.get("undisturbed/manifest.json"))
    assert [entry["path"] for entry in manifest["inputs"]] == ["s3://bucket/in/a.jsonl", "s3://bucket/in/b.parquet"]
    assert manifest["conservation"]["rows_read"] == 2 * SPLITS


def test_credentials_in_storage_options_are_told_to_nobody(
    store: Store, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    for name in store.names("undisturbed/"):
        content = store.get(f"undisturbed/{name}")
        assert KEY.encode() not in content, name
        assert SECRET.encode() not in content, name
    manifest = json.loads(store.get("undisturbed/manifest.json"))
    assert manifest["recipe"]["output"]["storage_options"] == dict.fromkeys(store.options, "***")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of("planned", 0, store.options)))
    planned = CliRunner().invoke(app, ["plan", str(recipe)])
    assert planned.exit_code == 0
    assert "s3://bucket/in/a.jsonl" in planned.output
    assert KEY not in planned.output
    assert SECRET not in planned.output


def test_a_run_on_s3_killed_and_started_again_leaves_what_an_undisturbed_run_leaves(
    store: Store, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of("killed", 0.25, {})))

    def done() -> int:
        return len(store.names("killed/_run/commits/"))

    with ExitStack() as stack:
        killed = stack.enter_context(command(polar_ray("run", str(recipe)), tmp_path / "killed.log", store.environment))
        wait_for("three commits", lambda: done() >= 3 or killed.popen.poll() is not None, every_s=0.1)
        killed.family()
        killed.popen.kill()
        assert killed.wait() == -signal.SIGKILL, killed.output
        before = done()
        assert before < SPLITS
        assert "manifest.json" not in store.names("killed/")
        resumed = stack.enter_context(
            command(polar_ray("run", str(recipe)), tmp_path / "resumed.log", store.environment)
        )
        assert resumed.wait() == 0, resumed.output
    assert store.contents("killed") == undisturbed
    manifest = json.loads(store.get("killed/manifest.json"))
    assert before <= manifest["resumed_splits"] < SPLITS
    assert manifest["conservation"]["holds"]


class TakesAway(Silent):
    """Takes the store away for some seconds when the first splits are committed."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self.took = False

    def update(self, tally: Tally, done_share: float) -> None:
        if tally.splits >= 3 and not self.took:
            self.took = True
            with self._store.away():
                time.sleep(self._seconds)


def test_a_run_outlives_a_store_that_is_away_for_a_while(store: Store, undisturbed: dict[str, bytes]) -> None:
    thief = TakesAway(store, seconds=8)  # pyarrow by itself gives up writing after about five
    manifest = run(Recipe.of(recipe_of("away", 0.1, store.options)), reporter=thief)
    assert thief.took
    assert store.contents("away") == undisturbed
    assert manifest.conservation["holds"]


@pytest.fixture
def proxy(store: Store) -> Iterator[FlakyProxy]:
    made = FlakyProxy(*store.address)
    yield made
    made.stop()


def behind(proxy: FlakyProxy, store: Store, output: str, wait_s: float) -> Recipe:
    recipe = recipe_of(output, 0, {**store.options, "endpoint_url": proxy.url})
    return Recipe.of({**recipe, "limits": {"storage_wait_s": wait_s}})


def test_a_run_outlives_a_store_that_breaks_a_fifth_of_the_requests(
    store: Store, undisturbed: dict[str, bytes], proxy: FlakyProxy
) -> None:
    with proxy.breaking(0.2):
        manifest = run(behind(proxy, store, "flaky", 120))
    assert proxy.broken > SPLITS
    assert store.contents("flaky") == undisturbed
    assert manifest.conservation["holds"]


class Ends(Silent):
    """Takes the store away when all is scored and only the driver has something left to ask and to write."""

    def __init__(self, proxy: FlakyProxy) -> None:
        self._proxy = proxy

    def end(self) -> None:
        self._proxy.go_away()


def test_a_store_that_is_gone_at_the_start_or_at_the_end_is_one_sentence_and_the_run_goes_on_later(
    store: Store, undisturbed: dict[str, bytes], proxy: FlakyProxy
) -> None:
    recipe = behind(proxy, store, "gone", 1)
    proxy.go_away()
    with pytest.raises(StorageAway, match=r"s3://bucket/(in|gone) could not be used for 1 s \(limits.storage_wait_s\)"):
        run(recipe)
    proxy.come_back()
    with pytest.raises(
        StorageAway, match=r"s3://bucket/gone(/_run/lease)? could not be used for 1 s \(limits.storage_wait_s\)"
    ):
        run(recipe, reporter=Ends(proxy))
    assert "manifest.json" not in store.names("gone/")
    proxy.come_back()
    manifest = run(recipe)
    assert manifest.resumed_splits == SPLITS
    assert store.contents("gone") == undisturbed


def test_a_bucket_that_is_not_there_is_named(store: Store, embedded_ray: None) -> None:
    recipe = recipe_of("out", 0, store.options)
    recipe["input"]["path"] = "s3://no-such-bucket/in/*.jsonl"
    with pytest.raises(InputError, match="no-such-bucket"):
        run(Recipe.of(recipe))
