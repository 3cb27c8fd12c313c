import json
import logging
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from polar_ray.data.dead_letters import DEAD_LETTER_SCHEMA
from polar_ray.data.group import GROUP_SCHEMA
from polar_ray.data.listing import list_input
from polar_ray.data.parsing import ParsedSplit, parse_split
from polar_ray.data.raw_split import RawSplit
from polar_ray.data.reading import read_source
from polar_ray.data.sources import plan_sources
from polar_ray.recipe.input import Input

SHARED = Path(__file__).parents[2] / "../shared/data"


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket, with endpoint and credentials in the environment as a user would set them."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = "bucket-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:40].strip("-")
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=name)
    return name


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared data is not beside this checkout")
    return SHARED


@dataclass(frozen=True)
class ReadInput:
    """An input read and parsed the way a run does it: every split, in order."""

    raws: list[RawSplit]
    parsed: list[ParsedSplit]

    @property
    def groups(self) -> pa.Table:
        return pa.concat_tables([split.groups for split in self.parsed]).combine_chunks()

    @property
    def dead_letters(self) -> list[dict[str, Any]]:
        return [letter for split in self.parsed for letter in split.dead_letters.to_pylist()]

    @property
    def reasons(self) -> list[tuple[int, str]]:
        return [(letter["row"], letter["reason"]) for letter in self.dead_letters]

    @property
    def input_rows(self) -> list[int]:
        return [row for split in self.parsed for row in split.places["input_row"].to_pylist()]


def _read_input(config: Input, skip: Collection[str] = ()) -> ReadInput:
    sources = plan_sources(list_input(config), config, footer_threads=2)
    raws = [raw for source in sources for raw in read_source(source, config, skip)]
    parsed = [parse_split(raw, config) for raw in raws]
    for raw, split in zip(raws, parsed, strict=True):
        assert split.rows == split.rows_in_groups + split.dead_letters.num_rows + sum(split.drops.values()), (
            raw.split_id
        )
        assert split.rows == raw.rows + (raw.error is not None)
        assert split.groups.schema == GROUP_SCHEMA
        assert split.dead_letters.schema == DEAD_LETTER_SCHEMA
        split.groups.validate(full=True)
        assert split.places.num_rows == split.groups.num_rows
    return ReadInput(raws, parsed)


@pytest.fixture
def read_input() -> Callable[..., ReadInput]:
    """Reads an input and checks what holds for every split: its schema, and that no row is lost."""
    return _read_input


@pytest.fixture
def parse_rows(tmp_path: Path) -> Callable[..., ReadInput]:
    """Writes rows to a JSONL file (bytes are written as they are) and reads it as one split."""

    def parse(rows: list[Any], **options: Any) -> ReadInput:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path = tmp_path / "rows.jsonl"
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return _read_input(Input(path=str(path), **{"split_rows": 10_000, **options}))

    return parse
