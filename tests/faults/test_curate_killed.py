"""Ticks of a curation that overlap and are killed, on local disk and on S3: no shard twice, none lost."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import rows
from processes import command, polar_ray, wait_for
from s3_server import bucket

from polar_ray.data.storage import Storage

GROUPS = 8
LEASE_S = 5.0


class Place:
    """A folder on local disk or S3, looked at with plain means."""

    def __init__(self, url: str, environment: dict[str, str], storage: Storage) -> None:
        self.url = url
        self.environment = environment
        self._storage = storage

    def put(self, name: str, data: list[dict[str, Any]]) -> None:
        content = b"".join(msgspec.json.encode(row) + b"\n" for row in data)
        self._storage.write_atomic(self._storage.join(name), content)

    def names(self, prefix: str) -> list[str]:
        start = self._storage.join("")
        return [info.path.removeprefix(start) for info in self._storage.list(self._storage.join(prefix))]

    def get(self, name: str) -> bytes:
        return self._storage.read_bytes(self._storage.join(name))

    def json(self, name: str) -> Any:
        return json.loads(self.get(name))

    def latest_rewards(self) -> list[tuple[str, list[float]]]:
        """Every row of the latest version's score table."""
        table = f"out/{self.json('out/latest.json')['path']}/table"
        found = []
        for part in self.json(f"{table}/scores.json")["parts"]:
            # The paths lead from the table's folder: up to the output folder and down to a run's.
            name = "out/" + part["path"].removeprefix("../../../")
            rows = pq.read_table(pa.BufferReader(self.get(name))).to_pylist()
            found += [(row["prompt_id"], row["reward"]) for row in rows]
        return sorted(found)


@pytest.fixture(params=[pytest.param("local", marks=pytest.mark.slow), "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "local":
        yield Place(str(tmp_path / "place"), {}, Storage.of(str(tmp_path / "place")))
        return
    with bucket() as s3:
        yield Place("s3://bucket/place", s3.environment, Storage.of("s3://bucket/place", s3.options))


def write_recipe(place: Place, path: Path, seconds: float) -> None:
    recipe = {
        "input": {"path": f"{place.url}/in/", "split_rows": 1},
        "scorer": {"kind": "custom", "target": "faulty:Slow", "settings": {"seconds": seconds}},
        "derive": {"best": {"best_of_n": {"top_k": 1}, "export": {"kind": "ids"}}},
        "lease_s": LEASE_S,
        "output": {"path": f"{place.url}/out"},
    }
    path.write_text(yaml.safe_dump(recipe))


def expected(*numbers: int) -> list[tuple[str, list[float]]]:
    return [(f"p{number:04d}", [float(10 * number + candidate) for candidate in range(3)]) for number in numbers]


def test_of_two_ticks_one_works_and_when_it_is_killed_the_next_finishes_what_it_began(
    place: Place, tmp_path: Path
) -> None:
    data = rows(GROUPS + 2)
    place.put("in/a.jsonl", data[: GROUPS // 2])
    place.put("in/b.jsonl", data[GROUPS // 2 : GROUPS])
    recipe = tmp_path / "recipe.yaml"
    write_recipe(place, recipe, seconds=0.5)

    def curate(name: str) -> Any:
        return command(polar_ray("curate", str(recipe)), tmp_path / f"{name}.log", place.environment)

    def commits() -> int:
        return len([name for name in place.names("out/runs") if "/_run/commits/" in name])

    with curate("killed") as killed:
        wait_for("two commits", lambda: commits() >= 2 or killed.popen.poll() is not None, every_s=0.1)
        with curate("overlapping") as overlapping:
            assert overlapping.wait() == 0, overlapping.output
            assert overlapping.output.startswith("another tick works since ")
        assert killed.popen.poll() is None, killed.output
        killed.family()
        killed.popen.kill()
        assert killed.wait() == -signal.SIGKILL
    before = commits()
    assert 2 <= before < GROUPS
    assert "out/latest.json" not in place.names("out")
    # On local disk a shard arrives meanwhile. The lease of the killed one expires.
    late = [] if place.environment else data[GROUPS:]
    if late:
        place.put("in/c.jsonl", late)
    _finish(curate)
    # Nothing twice and nothing lost, and the killed tick's splits were not scored again.
    assert place.latest_rewards() == expected(*range(GROUPS + len(late)))
    runs = sorted({name.split("/")[2] for name in place.names("out/runs")})
    assert before <= place.json(f"out/runs/{runs[0]}/manifest.json")["resumed_splits"] < GROUPS
    versions = [place.json(f"out/versions/{name}/version.json") for name in runs]
    told = [([path.rsplit("/", 1)[-1] for path in each["new"]], each["shards"], each["groups"]) for each in versions]
    first = (["a.jsonl", "b.jsonl"], 2, GROUPS)
    assert told == ([first, (["c.jsonl"], 3, GROUPS + 2)] if late else [first])


def _finish(curate: Callable[[str], Any]) -> None:
    """Runs ticks until one gets the lease; two at a time, of which one at most works."""

    def taken_over() -> bool:
        with curate("next") as one, curate("other") as other:
            assert one.wait() == 0, one.output
            assert other.wait() == 0, other.output
            said = [one.output.splitlines()[-1], other.output.splitlines()[-1]]
        published = [line for line in said if line.startswith("published ")]
        others = [line for line in said if line.startswith(("another tick works since ", "no new shards"))]
        assert len(published) <= 1
        assert len(published) + len(others) == 2, said
        return bool(published)

    wait_for("the lease to expire", taken_over)
