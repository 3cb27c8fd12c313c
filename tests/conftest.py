"""Shared by all tests: input of the tests' own making, and one Ray for the tests that need no other."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pytest

from polar_ray.data.storage import Storage

if TYPE_CHECKING:
    from s3_server import Bucket

TESTS = Path(__file__).parent
SHARED = TESTS.parents[1] / "shared"

# Worker processes must find tests/faulty.py, and Ray's memory monitor must not act on what other processes use.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Two workers with two threads each on two cores: a thread that waits for its siblings must not spin meanwhile.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(TESTS))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository; tests that use it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder with real data is not here")
    return SHARED


@pytest.fixture(scope="session")
def embedded_ray() -> Iterator[None]:
    """Ray on this machine, started as the command line starts it, shared by the tests that do not harm it."""
    import ray

    from polar_ray.recipe.run import Compute
    from polar_ray.running.cluster import connected

    assert not ray.is_initialized()
    with connected(Compute()):
        yield


@pytest.fixture(scope="session")
def s3() -> Iterator[Bucket]:
    """A bucket on an S3 server of the tests' own."""
    from s3_server import bucket

    with bucket() as started:
        yield started


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty folder, on local disk and on S3."""
    if request.param == "local":
        return Storage.of(str(tmp_path / "folder"))
    s3: Bucket = request.getfixturevalue("s3")
    return Storage.of(f"s3://bucket/{uuid.uuid4().hex}", s3.options)


@pytest.fixture(scope="session")
def ray_environment(embedded_ray: None) -> dict[str, str]:
    """What a command needs to work on that Ray, where it need not start one of its own."""
    import ray

    return {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}


SLOWEST_FIRST = ("faults", "jobs", "laws", "curating", "running")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the folders with the longest tests first, so that no worker is left with one of them at the end."""

    def place(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return SLOWEST_FIRST.index(folder) if folder in SLOWEST_FIRST else len(SLOWEST_FIRST)

    items.sort(key=place)


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """A folder that everybody may look into."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o055)
    return tmp_path


def rows(groups: int, candidates: int = 3, *, prompt: str = "question") -> list[dict[str, Any]]:
    """Returns input rows in the ``groups`` layout; candidate ``c`` of group ``g`` has ``10 * g + c`` characters."""
    return [
        {
            "prompt_id": f"p{group:04d}",
            "prompt": [{"role": "user", "content": f"{prompt} {group}"}],
            "reference": [{"role": "assistant", "content": f"answer {group}"}],
            "candidates": [
                {
                    "candidate_id": f"c{candidate}",
                    "messages": [{"role": "assistant", "content": "x" * (10 * group + candidate)}],
                    "model": f"model-{candidate}",
                }
                for candidate in range(candidates)
            ],
            "lang": "en",
        }
        for group in range(groups)
    ]


def write_jsonl(path: Path, data: list[dict[str, Any]]) -> Path:
    """Writes rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in data))
    return path


def write_parquet(path: Path, data: list[dict[str, Any]], row_group_size: int = 1000) -> Path:
    """Writes rows as Parquet."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(data), path, row_group_size=row_group_size)
    return path
