"""A storage that is away is waited for, whatever is asked of it; what is wrong for good is said at once."""

import errno
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
from conftest import rows, write_parquet
from flaky_proxy import FlakyProxy
from processes import wait_for
from s3_server import Bucket, bucket

from polar_ray.data.faults import is_away
from polar_ray.data.listing import list_input
from polar_ray.data.patience import Patience
from polar_ray.data.reading import read_source
from polar_ray.data.sources import plan_sources
from polar_ray.data.storage import Storage
from polar_ray.errors import StorageAway, StorageDenied, StorageError
from polar_ray.recipe.input import Input


@pytest.fixture(scope="module")
def store() -> Iterator[Bucket]:
    with bucket() as made:
        yield made


@pytest.fixture
def proxy(store: Bucket) -> Iterator[FlakyProxy]:
    there = urlsplit(store.options["endpoint_url"])
    assert there.hostname is not None
    assert there.port is not None
    made = FlakyProxy(there.hostname, there.port)
    yield made
    made.stop()


def through(proxy: FlakyProxy, store: Bucket, wait_s: float = 60) -> Storage:
    return Storage.of("s3://bucket", {**store.options, "endpoint_url": proxy.url}, wait_s)


def everything(storage: Storage, name: str) -> list[object]:
    """Asks for every kind of thing once."""
    path, other = storage.join(name, "a"), storage.join(name, "b")
    storage.write_atomic(path, b"12345")
    storage.copy(path, other)
    with storage.open_atomic(storage.join(name, "c")) as stream:
        stream.write(b"c")
    with storage.open_input(path) as raw:
        pieces = [raw.read(2), raw.read(2), raw.read(2), raw.read(2)]
    answers = [
        pieces,
        storage.read_bytes(other),
        storage.read_with(path, lambda file: file.read()),
        storage.exists(path),
        storage.is_file(storage.join(name, "none")),
        [info.path for info in storage.list(storage.join(name))],
        [info.size for info in storage.glob(storage.join(name, "[bc]"))],
    ]
    storage.delete(path)
    storage.delete_tree(storage.join(name))
    return [*answers, storage.list(storage.join(name))]


def expected(storage: Storage, name: str) -> list[object]:
    return [
        [b"12", b"34", b"5", b""],
        b"12345",
        b"12345",
        True,
        False,
        [storage.join(name, each) for each in "abc"],
        [5, 1],
        [],
    ]


def test_every_call_outlives_a_store_that_breaks_a_fifth_of_the_requests(store: Bucket, proxy: FlakyProxy) -> None:
    storage = through(proxy, store)
    with proxy.breaking(0.2):
        for turn in range(2):
            assert everything(storage, f"flaky{turn}") == expected(storage, f"flaky{turn}")
    assert proxy.broken > 5


@contextmanager
def while_away(proxy: FlakyProxy, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Takes the store away, and brings it back once somebody has said that it is waited for."""
    proxy.go_away()
    caplog.clear()

    def bring_back() -> None:
        wait_for("the word that the store is waited for", lambda: "waiting for it" in caplog.text)
        proxy.come_back()

    thread = threading.Thread(target=bring_back)
    thread.start()
    yield
    thread.join()


CALLS: dict[str, Callable[[Storage], object]] = {
    "is there": lambda storage: storage.exists(storage.join("kept")),
    "list": lambda storage: len(storage.list(storage.join("kept"))),
    "read": lambda storage: storage.read_bytes(storage.join("kept")),
    "read at random": lambda storage: storage.read_with(storage.join("kept"), lambda file: file.read()),
    "write": lambda storage: storage.write_atomic(storage.join("new"), b"new"),
    "copy": lambda storage: storage.copy(storage.join("kept"), storage.join("new")),
    "delete": lambda storage: storage.delete(storage.join("new")),
}
ANSWERS: dict[str, object] = {"is there": True, "list": 1, "read": b"kept", "read at random": b"kept"}


@pytest.mark.parametrize("what", CALLS)
def test_a_call_waits_for_a_store_that_is_away_and_says_so_once(
    store: Bucket, proxy: FlakyProxy, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    store.client.delete_object(Bucket="bucket", Key="new")
    store.put("kept", b"kept")
    storage = through(proxy, store)
    with caplog.at_level(logging.WARNING), while_away(proxy, caplog):
        assert CALLS[what](storage) == ANSWERS.get(what)
    said = [record.getMessage() for record in caplog.records if record.name == "polar_ray.data.patience"]
    assert len(said) == 2
    assert said[0].startswith("s3://bucket does not answer as it should (")
    assert said[0].endswith("); waiting for it, up to 60 s (limits.storage_wait_s)")
    assert said[1].startswith("s3://bucket is back after ")


def test_a_stream_goes_on_where_it_was_when_the_store_was_away(
    store: Bucket, proxy: FlakyProxy, caplog: pytest.LogCaptureFixture
) -> None:
    content = os.urandom(3_000_000)
    store.put("large", content)
    storage = through(proxy, store)
    with storage.open_input(storage.join("large")) as stream:
        read = stream.read(1_000_000)
        with caplog.at_level(logging.WARNING), while_away(proxy, caplog):
            read += stream.read(1_000_000)
        while data := stream.read(1_000_000):
            read += data
    assert read == content


def test_a_parquet_file_goes_on_where_it_was_when_the_store_was_away(
    store: Bucket, proxy: FlakyProxy, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    data = rows(200)
    for row in data:
        row["extra"] = os.urandom(20_000).hex()
    store.put("in/x.parquet", write_parquet(tmp_path / "x.parquet", data, row_group_size=100).read_bytes())
    options = {**store.options, "endpoint_url": proxy.url}
    config = Input(path="s3://bucket/in/x.parquet", split_rows=10, storage_options=options)
    splits = []
    with caplog.at_level(logging.WARNING):
        for source in plan_sources(list_input(config, 60), config, 60):
            reading = read_source(source, config)
            splits.append(next(reading))
            with while_away(proxy, caplog):
                splits += reading
    local = config.model_copy(update={"path": str(tmp_path / "x.parquet"), "storage_options": {}})
    plain = [split for source in plan_sources(list_input(local), local) for split in read_source(source, local)]
    assert [split.payload for split in splits] == [split.payload for split in plain]
    assert [split.error for split in splits] == [None] * 20


def test_a_store_that_stays_away_ends_in_one_sentence(store: Bucket, proxy: FlakyProxy) -> None:
    storage = through(proxy, store, wait_s=1)
    proxy.go_away()
    with pytest.raises(StorageAway) as raised:
        storage.list()
    assert str(raised.value).startswith("s3://bucket could not be used for 1 s (limits.storage_wait_s): ")
    assert "\n" not in str(raised.value)


class Counted:
    """An operation that fails in one way."""

    def __init__(self, error: Exception) -> None:
        self.calls = 0
        self._error = error

    def __call__(self) -> None:
        self.calls += 1
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "no such file"),
        PermissionError(errno.EACCES, "permission denied"),
        OSError("When reading information for key 'x' in bucket 'b': AWS Error ACCESS_DENIED during HeadObject"),
        OSError("When listing objects: AWS Error INVALID_ACCESS_KEY_ID (HTTP status 403): no such key id"),
        OSError(
            "google::cloud::Status(UNAVAILABLE: Could not create a OAuth2 access token: Could not resolve hostname)"
        ),
        OSError(errno.ENAMETOOLONG, "file name too long"),
        OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 60, SSL certificate problem"),
    ],
    ids=str,
)
def test_what_is_wrong_for_good_is_not_tried_again(error: Exception) -> None:
    operation = Counted(error)
    with pytest.raises((FileNotFoundError, StorageError)):
        Patience("somewhere", 60).ask("x", operation)
    assert operation.calls == 1


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "connection refused"),
        TimeoutError("timed out"),
        OSError(errno.ENOSPC, "no space left on device"),
        OSError(errno.EROFS, "read-only file system"),
        OSError(errno.EIO, "input/output error"),
        OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Couldn't connect to server"),
        OSError("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body."),
        OSError("AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate."),
        OSError("AWS Error UNKNOWN (HTTP status 429) during GetObject operation"),
        OSError("google::cloud::Status(UNAVAILABLE: Retry policy exhausted)"),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again_until_the_time_is_over(error: Exception) -> None:
    operation = Counted(error)
    with pytest.raises(StorageAway, match=r"somewhere could not be used for 0\.2 s"):
        Patience("somewhere", 0.2).ask("x", operation)
    assert operation.calls > 1


def test_errors_of_libraries_below_fsspec_count_by_what_they_mean() -> None:
    botocore = pytest.importorskip("botocore.exceptions")
    assert is_away(botocore.EndpointConnectionError(endpoint_url="http://nowhere"))
    assert is_away(botocore.ReadTimeoutError(endpoint_url="http://nowhere"))
    assert not is_away(botocore.NoCredentialsError())
    httpx = pytest.importorskip("httpx")
    assert is_away(httpx.ConnectError("no network"))
    assert not is_away(httpx.UnsupportedProtocol("what is that"))


def test_an_error_of_ours_is_neither_waited_for_nor_disguised() -> None:
    operation = Counted(KeyError("x"))
    with pytest.raises(KeyError):
        Patience("somewhere", 60).ask("x", operation)
    assert operation.calls == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_waited_for_and_the_file_is_whole(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = Storage.of(str(small_disk), wait_s=60)
    (small_disk / "other").write_bytes(bytes(900_000))
    content = os.urandom(500_000)

    def make_room() -> None:
        wait_for("the word that the disk is waited for", lambda: "waiting for it" in caplog.text)
        (small_disk / "other").unlink()

    thread = threading.Thread(target=make_room)
    with caplog.at_level(logging.WARNING):
        thread.start()
        with storage.open_atomic(storage.join("x")) as stream:
            stream.write(content)
    thread.join()
    assert "No space left on device" in caplog.text
    assert storage.read_bytes(storage.join("x")) == content


def test_a_disk_that_stays_full_ends_in_one_sentence_and_leaves_nothing_behind(small_disk: Path) -> None:
    storage = Storage.of(str(small_disk), wait_s=0.3)
    with pytest.raises(StorageAway, match=r"disk could not be used for 0\.3 s .*No space left on device"):
        storage.write_atomic(storage.join("x"), bytes(2_000_000))
    assert os.listdir(small_disk) == []


def test_a_disk_that_is_read_only_for_a_while_is_waited_for(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = Storage.of(str(small_disk), wait_s=60)
    storage.write_atomic(storage.join("old"), b"old")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)

    def make_writable() -> None:
        wait_for("the word that the disk is waited for", lambda: "waiting for it" in caplog.text)
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)

    thread = threading.Thread(target=make_writable)
    with caplog.at_level(logging.WARNING):
        thread.start()
        storage.write_atomic(storage.join("new"), b"new")
        storage.delete(storage.join("old"))
    thread.join()
    assert [info.path for info in storage.list()] == [storage.join("new")]


def test_a_file_of_another_user_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage.of(str(tmp_path))

    def denied(self: object, path: str) -> object:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("polar_ray.data.stream.Stream._opened", lambda self: denied(self, "x"))
    with pytest.raises(StorageDenied, match="x cannot be read: Permission denied; give this user access"):
        storage.read_bytes(storage.join("x"))


def test_a_part_is_read_again_from_the_start_when_the_store_was_away(
    store: Bucket, proxy: FlakyProxy, tmp_path: Path
) -> None:
    path = write_parquet(tmp_path / "x.parquet", rows(50), row_group_size=5)
    store.put("parts/x.parquet", path.read_bytes())
    storage = through(proxy, store)
    with proxy.breaking(0.2):
        table = storage.read_with(storage.join("parts", "x.parquet"), pq.read_table)
    assert table.equals(pq.read_table(path))
