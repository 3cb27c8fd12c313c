"""Creating a file only where there is none: of several processes that try, exactly one succeeds."""

import os
import uuid
from typing import Any

from polar_ray.data.filesystems import S3_SCHEMES
from polar_ray.data.storage import TEMPORARY_PREFIX, Storage
from polar_ray.errors import StorageError


def create(storage: Storage, path: str, data: bytes) -> bool:
    """Writes a file if there is none of its name, whole or not at all.

    Local: a hard link to the finished content, which fails where the name is taken. S3: a put with ``If-None-Match: *``
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html), through s3fs, because pyarrow's
    client has none.

    Returns:
        Whether this call wrote it.

    Raises:
        StorageError: The storage is not known to be able to do this.
    """
    if storage.is_local:
        return _create_local(storage.relative(path), data)
    if storage.scheme in S3_SCHEMES:
        return _create_s3(storage, storage.relative(path), data)
    raise StorageError(
        f"{storage.url} cannot be shared by several processes: a file that only one of them can create is needed, and "
        "that is known to work on local paths and on s3://; give an output.path there"
    )


def _create_local(path: str, data: bytes) -> bool:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise StorageError(f"{folder} has no hard links, of which only one can have a name: {error}") from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return True


def _create_s3(storage: Storage, key: str, data: bytes) -> bool:
    try:
        from s3fs import S3FileSystem
    except ImportError as error:
        raise StorageError("s3:// needs a package that is not installed: pip install 'polar-ray[s3]'.") from error
    options: dict[str, Any] = {name: value for name, value in storage.options.items() if name != "region"}
    region = storage.options.get("region")
    filesystem = S3FileSystem(**options, client_kwargs={"region_name": region} if region else {})
    try:
        filesystem.pipe_file(key, data, mode="create")
    except FileExistsError:
        return False
    return True
