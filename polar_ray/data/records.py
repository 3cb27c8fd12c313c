"""Records: the small JSON files beside a table. A damaged one is one sentence, and never a fresh start."""

from typing import Any, TypeVar

import msgspec

from polar_ray.errors import OutputError

DAMAGE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not what was written."""

RecordT = TypeVar("RecordT")


def decode_record(data: bytes, path: str, type: type[RecordT], remedy: str = "restore it from a copy") -> RecordT:
    """Returns what the file at a path holds.

    Raises:
        OutputError: It is damaged; the message says what to do.
    """
    try:
        return msgspec.json.decode(data, type=type)
    except DAMAGE as error:
        raise OutputError(f"{path} is damaged, or is no record of polar_ray ({error}); {remedy}") from error


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Returns in words where two records differ, the first three places of them; nothing where they are the same."""
    one, other = _flat(before), _flat(now)
    changed = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    shown = "; ".join(
        f"{key} was {one.get(key, 'absent')!s:.80} and is {other.get(key, 'absent')!s:.80}" for key in changed[:3]
    )
    return shown + (f" (and {len(changed) - 3} more)" if len(changed) > 3 else "")


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        key: leaf
        for name, below in value.items()
        # A single scorer has an empty name.
        for key, leaf in _flat(below, ".".join(filter(None, (prefix, name)))).items()
    }
