"""Folders on local disk and in a bucket, in which leases and states lie."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import Bucket, bucket

from polar_ray.data.storage import Storage


@pytest.fixture(scope="session")
def s3() -> Iterator[Bucket]:
    with bucket() as started:
        yield started


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty folder, on local disk and on S3."""
    if request.param == "local":
        return Storage.of(str(tmp_path / "folder"))
    s3: Bucket = request.getfixturevalue("s3")
    return Storage.of(f"s3://bucket/{uuid.uuid4().hex}", s3.options)
