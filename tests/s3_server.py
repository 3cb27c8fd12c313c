"""A bucket on an S3 server of the tests' own."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.server import ThreadedMotoServer
from werkzeug.serving import make_server

KEY, SECRET = "AKIATEST", "secret"


class Bucket:
    """An empty bucket named ``bucket``; looked at through a client that is not the one under test.

    Attributes:
        options: ``storage_options`` for a recipe.
        environment: The same for a process.
        client: boto3's.
    """

    def __init__(self, endpoint: str) -> None:
        region = "us-east-1"
        self.options: dict[str, Any] = {"endpoint_url": endpoint, "key": KEY, "secret": SECRET, "region": region}
        self.environment = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": region,
        }
        self.client = boto3.client(
            "s3", endpoint_url=endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name=region
        )
        # A second server in this process shares the first one's memory.
        self.client.create_bucket(Bucket="bucket")

    def put(self, name: str, content: bytes) -> None:
        """Writes an object."""
        self.client.put_object(Bucket="bucket", Key=name, Body=content)

    def get(self, name: str) -> bytes:
        """Reads an object."""
        content: bytes = self.client.get_object(Bucket="bucket", Key=name)["Body"].read()
        return content

    def names(self, prefix: str) -> list[str]:
        """Returns the names of the objects below a prefix, sorted."""
        listed = self.client.list_objects_v2(Bucket="bucket", Prefix=prefix)
        assert not listed["IsTruncated"]
        return sorted(entry["Key"] for entry in listed.get("Contents", []))


@contextmanager
def bucket() -> Iterator[Bucket]:
    """Runs the server with an empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield Bucket(f"http://{host}:{port}")
    finally:
        server.stop()


@contextmanager
def careless_bucket() -> Iterator[Bucket]:
    """Runs a server that ignores ``If-None-Match``, as several stores do, with an empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    inner = DomainDispatcherApplication(create_backend_app)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        environ.pop("HTTP_IF_NONE_MATCH", None)
        return inner(environ, start_response)

    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Bucket(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Sets variables of this process's environment for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
