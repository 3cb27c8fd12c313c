"""Filesystems: from the scheme of a URL to an object that reads and writes.

pyarrow's own filesystems serve ``s3``, ``gs``, ``az`` and local paths; fsspec serves the rest (``hf`` and
whatever else is installed), wrapped so that both look the same.
"""

import os
from datetime import timedelta
from typing import Any

import pyarrow.fs as pafs

from polar_ray.errors import StorageError
from polar_ray.recipe.secrets import hidden, secrets_of_storage

S3_SCHEMES = ("s3", "s3a", "s3n")
GCS_SCHEMES = ("gs", "gcs")
AZURE_SCHEMES = ("az", "abfs", "abfss")

_S3_OPTIONS = {"endpoint_url", "key", "secret", "token", "region", "anon"}
_GCS_OPTIONS = {"endpoint_url", "anon", "project"}
_AZURE_OPTIONS = {"endpoint_url", "account_name", "account_key", "sas_token", "anon"}

_GCS_RETRY_S = 3
ATTEMPTS = 2
"""Times that a client library tries by itself, so that its waiting and ours do not multiply."""

_INSTALL = {
    "s3": "pip install s3fs",
    "s3a": "pip install s3fs",
    "gs": "pip install gcsfs",
    "gcs": "pip install gcsfs",
    "az": "pip install adlfs",
    "abfs": "pip install adlfs",
    "abfss": "pip install adlfs",
    "hf": "pip install huggingface_hub",
}


def make_filesystem(scheme: str, root: str, host: str | None, options: dict[str, Any]) -> pafs.FileSystem:
    """Makes the filesystem of a scheme.

    Args:
        scheme: ``""`` for local paths.
        root: The path inside the filesystem; an S3 bucket's region is looked up with it.
        host: The account's host of an Azure URL such as ``abfs://container@account.dfs.core.windows.net/x``.
        options: The recipe's ``storage_options``.

    Raises:
        StorageError: An option is unknown or of a wrong type, the scheme is unknown, or a package is missing.
    """
    if scheme == "":
        return pafs.LocalFileSystem()
    try:
        if scheme in S3_SCHEMES:
            return _s3(root, options)
        if scheme in GCS_SCHEMES:
            return _gcs(options)
        if scheme in AZURE_SCHEMES and "AZURE_STORAGE_CONNECTION_STRING" not in os.environ:
            return _azure(host, options)
    except ImportError:
        # This build of pyarrow lacks the filesystem; fsspec may have it.
        pass
    except (ValueError, TypeError) as error:
        raise _unusable(scheme, options, error) from None
    return _fsspec(scheme, options)


def _s3(root: str, options: dict[str, Any]) -> pafs.FileSystem:
    _refuse_unknown("s3", options, _S3_OPTIONS)
    _refuse_half_a_login(options)
    # pyarrow does not read these two variables; boto3, s3fs and the AWS command line do.
    endpoint = (
        options.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    region = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None
    bucket = root.split("/", 1)[0]
    if region is None and endpoint is None and bucket:
        try:
            region = pafs.resolve_s3_region(bucket)
        except OSError:
            region = None
    return pafs.S3FileSystem(
        access_key=options.get("key"),
        secret_key=options.get("secret"),
        session_token=options.get("token"),
        anonymous=bool(options.get("anon", False)),
        region=region,
        endpoint_override=endpoint,
        # A request that fails by chance is made again at once; what lasts longer is waited for with patience.
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


def _gcs(options: dict[str, Any]) -> pafs.FileSystem:
    _refuse_unknown("gs", options, _GCS_OPTIONS)
    endpoint = options.get("endpoint_url")
    scheme, _, host = endpoint.partition("://") if endpoint else ("https", "", None)
    return pafs.GcsFileSystem(
        anonymous=bool(options.get("anon", False)),
        endpoint_override=host,
        scheme=scheme,
        project_id=options.get("project"),
        retry_time_limit=timedelta(seconds=_GCS_RETRY_S),
    )


def _azure(host: str | None, options: dict[str, Any]) -> pafs.FileSystem:
    _refuse_unknown("az", options, _AZURE_OPTIONS)
    account = (
        options.get("account_name")
        or (host.split(".", 1)[0] if host else None)
        or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
        or os.environ.get("AZURE_STORAGE_ACCOUNT")
    )
    if account is None:
        raise StorageError(
            "The Azure storage account is not known. Set AZURE_STORAGE_ACCOUNT_NAME, or `account_name` in "
            "storage_options, or write the URL as abfs://container@account.dfs.core.windows.net/path."
        )
    endpoint = options.get("endpoint_url")
    scheme, _, authority = endpoint.partition("://") if endpoint else ("https", "", None)
    return pafs.AzureFileSystem(
        account_name=account,
        account_key=options.get("account_key") or os.environ.get("AZURE_STORAGE_ACCOUNT_KEY"),
        sas_token=options.get("sas_token") or os.environ.get("AZURE_STORAGE_SAS_TOKEN"),
        blob_storage_authority=authority,
        blob_storage_scheme=scheme if authority else None,
    )


def _fsspec(scheme: str, options: dict[str, Any]) -> pafs.FileSystem:
    import fsspec

    try:
        filesystem = fsspec.filesystem(scheme, **options)
    except ImportError as error:
        command = _INSTALL.get(scheme, f"the package that serves {scheme}://")
        raise StorageError(f"{scheme}:// needs a package that is not installed: {command}.") from error
    except (ValueError, TypeError) as error:
        raise _unusable(scheme, options, error) from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem))


def _unusable(scheme: str, options: dict[str, Any], error: Exception) -> StorageError:
    return StorageError(
        f"{scheme}:// cannot be used: {hidden(str(error), secrets_of_storage(options))}; correct storage_options, or "
        "what the environment says"
    )


def _refuse_unknown(scheme: str, options: dict[str, Any], known: set[str]) -> None:
    """Refuses options that a scheme does not know, and values of another type than it takes; no value is told."""
    unknown = sorted(set(options) - known)
    if unknown:
        raise StorageError(
            f"storage_options has {', '.join(map(repr, unknown))}, which {scheme}:// does not know. "
            f"It knows {', '.join(sorted(known))}."
        )
    for name, value in sorted(options.items()):
        wanted = (bool, int) if name == "anon" else str
        if value is not None and not isinstance(value, wanted):
            takes = "true or false" if name == "anon" else "a text; put it into quotes"
            raise StorageError(
                f"storage_options.{name} is of type {type(value).__name__}, and {scheme}:// takes {takes}."
            )


def _refuse_half_a_login(options: dict[str, Any]) -> None:
    given = [name for name in ("key", "secret", "token") if options.get(name)]
    lacking = [name for name in ("key", "secret") if name not in given]
    if given and lacking:
        raise StorageError(
            f"storage_options has {given[0]} without {lacking[0]}: give both, or neither to take them from the "
            "environment."
        )
