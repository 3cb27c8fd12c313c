"""Faults: telling a storage that is away for a while from what stays wrong however long one waits.

Filesystems of several libraries are used, each with errors of its own: system calls have numbers, pyarrow's object
stores say it in words, and what fsspec opens raises the errors of its HTTP library.
"""

import errno
import re
import socket

_AWAY_NUMBERS = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EDQUOT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EIO,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.ENOSPC,
        errno.ENOTCONN,
        errno.EPIPE,
        errno.EROFS,
        errno.ESHUTDOWN,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""System calls fail so where a disk is full or read-only, or a network or a share mounted over it is away."""

_FOR_GOOD = re.compile(
    # No access: the stores' names for it, and what comes of looking for credentials where there are none.
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|UNRECOGNIZED_CLIENT)"
    r"|HTTP status 40[0134]|PERMISSION_DENIED|UNAUTHENTICATED|[Cc]redentials"
    r"|OAuth2 access token.*([Cc]ould not resolve|[Cc]ouldn't resolve|[Cc]ould not connect)"
    # A certificate that is not trusted, an address that is none.
    r"|curlCode: (3|35|51|58|60|77)\b|CERTIFICATE_VERIFY_FAILED",
)
_NO_GCS_LOGIN = (
    "there are no credentials for Google Cloud (log in with gcloud auth application-default login, set "
    "GOOGLE_APPLICATION_CREDENTIALS, or set storage_options.anon=true for public data)"
)
_AWAY = re.compile(
    r"AWS Error (NETWORK_CONNECTION|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|SLOW_DOWN|THROTTLING|REQUEST_TIMEOUT)"
    r"|HTTP status (408|429|500|502|503|504)\b"
    r"|Status\((UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED|INTERNAL)\b"
    r"|\b(408|429|500|502|503|504)(, message=| Client Error| Server Error| Too Many| [Ss]erver [Bb]usy)"
    r"|SlowDown|ServerBusy|ServiceUnavailable|RequestTimeout|InternalError|TooManyRequests|OperationTimedOut"
    r"|[Cc]onnection (was )?(refused|reset|closed|aborted)|[Tt]imed out|[Cc]ould(n't| not) (connect|resolve)"
)
_AWAY_CLASSES = frozenset(
    {
        "asyncio.exceptions.TimeoutError",
        "fsspec.exceptions.FSTimeoutError",
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "botocore.exceptions.HTTPClientError",
        # The package goes by either name; huggingface_hub takes the one that it finds.
        "httpx.NetworkError",
        "httpx.RemoteProtocolError",
        "httpx.TimeoutException",
        "httpx2.NetworkError",
        "httpx2.RemoteProtocolError",
        "httpx2.TimeoutException",
        "requests.exceptions.ChunkedEncodingError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.Timeout",
        "urllib3.exceptions.HTTPError",
    }
)
"""By name, since none of these packages need be installed."""
_FOREIGN = frozenset(
    {"aiohttp", "asyncio", "azure", "botocore", "fsspec", "gcsfs", "google", "httpx", "httpx2", "huggingface_hub"}
    | {"requests", "s3fs", "urllib3"}
)
"""Packages below fsspec whose errors need not be OSErrors."""


def is_fault(error: BaseException) -> bool:
    """Whether an error is one that a filesystem raises, and no mistake of ours."""
    return isinstance(error, OSError) or bool(_FOREIGN & {name.split(".")[0] for name in _classes(error)})


def is_away(error: BaseException, *, writing: bool = False) -> bool:
    """Whether a storage that failed so may well answer when it is asked again later.

    Args:
        error: What it raised.
        writing: A local file was being written: a folder that has become read-only may become writable again.
    """
    if isinstance(error, PermissionError):
        return writing and error.errno in (errno.EACCES, errno.EPERM)
    if isinstance(error, FileNotFoundError | FileExistsError | NotADirectoryError | IsADirectoryError):
        return False
    text = str(error)
    if _FOR_GOOD.search(text):
        return False
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _AWAY_NUMBERS
    if _AWAY_CLASSES & set(_classes(error)):
        return True
    if is_fault(error) and _AWAY.search(text):
        return True
    return error.__cause__ is not None and is_away(error.__cause__, writing=writing)


def is_denied(error: BaseException) -> bool:
    """Whether the storage says that this user may not."""
    return isinstance(error, PermissionError) or _FOR_GOOD.search(str(error)) is not None


def words(error: BaseException) -> str:
    """Returns what went wrong, for one sentence."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if "OAuth2 access token" in text:
        return _NO_GCS_LOGIN
    return text if len(text) <= 300 else f"{text[:297]}..."


def _classes(error: BaseException) -> list[str]:
    return [f"{each.__module__}.{each.__qualname__}" for each in type(error).__mro__]
