"""Versioned records: small JSON files with a schema version, whose damage is an error and never a fresh start."""

import time
from typing import Any, TypeVar

import msgspec

from polar_ray.data.records import DAMAGE
from polar_ray.data.storage import Storage
from polar_ray.errors import StateError

RecordT = TypeVar("RecordT")
PAUSE_S = 0.5


class _Versioned(msgspec.Struct):
    schema: int


def decode(storage: Storage, path: str, type: type[RecordT], schema: int, remedy: str) -> RecordT:
    """Reads a record.

    Args:
        storage: Where it lies.
        path: Its path.
        type: What it is.
        schema: The version of it that this version of polar_ray knows.
        remedy: What follows from its damage, and what to do about it.

    Raises:
        StateError: It is damaged, or was written by a newer version of polar_ray.
    """
    try:
        record = _read(storage, path, type, schema)
    except DAMAGE:
        # Reading from an object store asks for the size first: a record that is replaced in between comes out cut.
        time.sleep(PAUSE_S)
        try:
            record = _read(storage, path, type, schema)
        except DAMAGE as error:
            raise StateError(f"{path} is damaged ({error}): {remedy}") from error
    return record


def _read(storage: Storage, path: str, type: type[RecordT], schema: int) -> RecordT:
    data = storage.read_bytes(path)
    found = msgspec.json.decode(data, type=_Versioned).schema
    if found != schema:
        raise StateError(f"{path} has schema {found}, and this version of polar_ray knows {schema}; use a newer one")
    return msgspec.json.decode(data, type=type)


def encode(record: Any) -> bytes:
    """Returns a record as JSON that a person can read."""
    return msgspec.json.format(msgspec.json.encode(record))
