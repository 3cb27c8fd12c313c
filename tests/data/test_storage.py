import os
import pickle
from pathlib import Path
from typing import Any

import boto3
import pytest

from polar_ray.data.storage import Storage
from polar_ray.errors import StorageError


def fail_while_writing(storage: Storage, path: str, data: bytes) -> None:
    with storage.open_atomic(path) as stream:
        stream.write(data)
        raise RuntimeError


def test_a_local_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    storage = Storage.of(str(tmp_path))
    storage.write_atomic(storage.join("a", "b.bin"), b"\x00\xff")
    assert (tmp_path / "a/b.bin").read_bytes() == b"\x00\xff"
    assert storage.read_bytes(f"{tmp_path}/a/b.bin") == b"\x00\xff"
    with storage.open_file(storage.join("a/b.bin")) as file:
        file.seek(1)
        assert file.read() == b"\xff"


def test_a_relative_path_is_relative_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage.of("out")
    storage.write_atomic("out/x", b"1")
    assert storage.url == str(tmp_path / "out")
    assert [info.path for info in storage.list()] == [str(tmp_path / "out/x")]
    assert storage.exists("out/x")
    assert not storage.exists("out/y")


def test_a_file_url_is_a_local_path(tmp_path: Path) -> None:
    (tmp_path / "with space.txt").write_bytes(b"x")
    storage = Storage.of(f"file://{tmp_path}/with%20space.txt")
    assert storage.read_bytes(storage.url) == b"x"


def test_a_local_write_that_raises_leaves_what_was_there(tmp_path: Path) -> None:
    storage = Storage.of(str(tmp_path))
    path = storage.join("x")
    storage.write_atomic(path, b"old")
    with pytest.raises(RuntimeError):
        fail_while_writing(storage, path, b"new")
    assert os.listdir(tmp_path) == ["x"]
    assert storage.read_bytes(path) == b"old"


def test_a_local_write_is_not_seen_before_it_ends(tmp_path: Path) -> None:
    storage = Storage.of(str(tmp_path))
    with storage.open_atomic(storage.join("x")) as stream:
        stream.write(b"1" * 5_000_000)
        assert not storage.exists(storage.join("x"))
        assert storage.list() == []
        assert len(os.listdir(tmp_path)) == 1, "the unfinished file is there, under a name that is never listed"
    assert [info.size for info in storage.list()] == [5_000_000]


def test_a_listing_is_sorted_and_goes_into_folders(tmp_path: Path) -> None:
    storage = Storage.of(str(tmp_path))
    for name in ("b/2", "a", "b/1/x"):
        storage.write_atomic(storage.join(name), name.encode())
    assert [(info.path, info.size) for info in storage.list()] == [
        (f"{tmp_path}/a", 1),
        (f"{tmp_path}/b/1/x", 5),
        (f"{tmp_path}/b/2", 3),
    ]
    assert storage.list(f"{tmp_path}/none") == []
    assert storage.list()[0].mtime == pytest.approx((tmp_path / "a").stat().st_mtime)


def test_deleting_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    storage = Storage.of(str(tmp_path))
    storage.delete(storage.join("x"))
    storage.delete_tree(storage.join("y"))
    storage.write_atomic(storage.join("y/z"), b"")
    storage.delete_tree(storage.join("y"))
    assert os.listdir(tmp_path) == []


def test_a_storage_travels_by_pickle_without_its_connection(tmp_path: Path) -> None:
    storage = Storage.of(str(tmp_path), {})
    storage.write_atomic(storage.join("x"), b"1")
    assert "filesystem" not in storage.__getstate__()
    copy = pickle.loads(pickle.dumps(storage))
    assert copy == storage
    assert copy.read_bytes(copy.join("x")) == b"1"


def test_an_object_store_is_read_and_written_with_the_endpoint_of_the_environment(bucket: str) -> None:
    storage = Storage.of(f"s3://{bucket}/run")
    storage.write_atomic(storage.join("a/b"), b"small")
    storage.write_atomic(storage.join("a/empty"), b"")
    large = os.urandom(12_000_000)
    with storage.open_atomic(storage.join("c")) as stream:
        stream.write(large)
    assert [(info.path, info.size) for info in storage.list()] == [
        (f"s3://{bucket}/run/a/b", 5),
        (f"s3://{bucket}/run/a/empty", 0),
        (f"s3://{bucket}/run/c", 12_000_000),
    ]
    assert storage.read_bytes(f"s3://{bucket}/run/c") == large
    assert storage.exists(storage.join("a"))
    assert not storage.exists(storage.join("b"))
    assert storage.list()[0].mtime is not None
    assert pickle.loads(pickle.dumps(storage)).read_bytes(storage.join("a/b")) == b"small"


def test_an_endpoint_and_keys_in_the_options_come_before_the_environment(
    bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    options = {"endpoint_url": s3_endpoint, "key": "k", "secret": "s", "region": "us-east-1"}
    storage = Storage.of(f"s3://{bucket}", options)
    storage.write_atomic(storage.join("x"), b"1")
    assert storage.read_bytes(f"s3://{bucket}/x") == b"1"


def test_an_aborted_write_leaves_neither_an_object_nor_an_upload(bucket: str, s3_endpoint: str) -> None:
    storage = Storage.of(f"s3://{bucket}")
    with pytest.raises(RuntimeError):
        fail_while_writing(storage, storage.join("x"), b"1" * 12_000_000)
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    assert "Contents" not in client.list_objects_v2(Bucket=bucket)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


def test_objects_are_deleted_one_by_one_and_as_a_tree(bucket: str) -> None:
    storage = Storage.of(f"s3://{bucket}/run")
    for name in ("a/1", "a/2", "b/1"):
        storage.write_atomic(storage.join(name), b"x")
    storage.delete(storage.join("a/1"))
    storage.delete_tree(storage.join("b"))
    storage.delete_tree(storage.join("none"))
    assert [info.path for info in storage.list()] == [f"s3://{bucket}/run/a/2"]


def test_a_filesystem_of_fsspec_works_like_the_others() -> None:
    storage = Storage.of("memory://folder")
    storage.write_atomic(storage.join("a.txt"), b"abc")
    with pytest.raises(RuntimeError):
        fail_while_writing(storage, storage.join("b.txt"), b"abc")
    assert [info.size for info in storage.list()] == [3]
    assert storage.read_bytes(storage.list()[0].path) == b"abc"
    assert len(storage.glob(storage.join("*.txt"))) == 1
    storage.delete_tree()
    assert storage.list() == []


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("s3://b/x", {"key": "AKIACANARY"}, r"^storage_options has key without secret: give both, or neither"),
        ("s3://b/x", {"secret": "CANARY"}, r"^storage_options has secret without key: give both"),
        ("s3://b/x", {"token": "CANARY"}, r"^storage_options has token without key: give both"),
        ("s3://b/x", {"endpoint_url": 5}, r"^storage_options\.endpoint_url is of type int, and s3:// takes a text"),
        ("s3://b/x", {"region": {"CANARY": 1}}, r"^storage_options\.region is of type dict, and s3:// takes a text"),
        ("s3://b/x", {"anon": "CANARY"}, r"^storage_options\.anon is of type str, and s3:// takes true or false"),
        ("gs://b/x", {"project": ["CANARY"]}, r"^storage_options\.project is of type list, and gs:// takes a text"),
        ("az://b/x", {"account_name": "a", "sas_token": 7}, r"^storage_options\.sas_token is of type int, and az://"),
    ],
)
def test_a_slip_in_the_options_is_one_sentence_that_names_the_key_and_holds_no_value(
    url: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(StorageError, match=message) as refused:
        Storage.of(url, options).exists()
    assert "CANARY" not in str(refused.value)


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(StorageError, match=r"'endpoint', which s3:// does not know.*endpoint_url"):
        _ = Storage.of("s3://b", {"endpoint": "x"}).filesystem


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    monkeypatch.delattr("pyarrow.fs.GcsFileSystem")
    monkeypatch.setattr("polar_ray.data.filesystems._gcs", _no_gcs)
    with pytest.raises(StorageError, match="pip install gcsfs"):
        _ = Storage.of("gs://b").filesystem


def _no_gcs(options: object) -> None:
    raise ImportError


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(StorageError, match="nosuch://"):
        _ = Storage.of("nosuch://x").filesystem


def test_an_azure_url_names_its_account() -> None:
    storage = Storage.of("abfs://box@account.dfs.core.windows.net/a/b")
    assert storage.root == "box/a/b"
    assert storage.join("c") == "abfs://box@account.dfs.core.windows.net/a/b/c"
    assert storage.relative(storage.join("c")) == "box/a/b/c"


def test_an_azure_account_that_is_not_known_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StorageError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        _ = Storage.of("az://box/a").filesystem
