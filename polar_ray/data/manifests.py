"""Manifests as they are read: what is in them is checked here, once, and whoever asks for it finds it."""

from typing import Annotated, Any, TypeVar

import msgspec

from polar_ray.data.records import decode_record
from polar_ray.data.status import Status
from polar_ray.errors import OutputError

ManifestT = TypeVar("ManifestT")
Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""A number of things."""
StatusName = Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(status.value for status in Status)})$")]
"""One of the statuses of a score."""
_Time = Annotated[str, msgspec.Meta(pattern=r"^(None|-?[0-9.]+(e[+-]?[0-9]+)?)$")]


class _Scorer(msgspec.Struct):
    kind: str


class _Fields(msgspec.Struct):
    candidate_id: str = ""


class _Input(msgspec.Struct):
    path: str | list[str] | msgspec.UnsetType = msgspec.UNSET
    layout: str | msgspec.UnsetType = msgspec.UNSET
    columns: dict[str, str | None] | msgspec.UnsetType = msgspec.UNSET
    candidate_fields: _Fields | msgspec.UnsetType = msgspec.UNSET


class _Recipe(msgspec.Struct):
    name: str
    input: _Input | None = None
    scorer: _Scorer | None = None
    scorers: dict[str, _Scorer] | None = None
    limits: dict[str, Any] = {}


class _Counts(msgspec.Struct):
    groups: Count
    candidates: Count
    rows: Count = 0
    rows_in_groups: Count = 0
    splits: Count = 0
    tokens: dict[str, Count] = {}
    statuses: dict[str, dict[StatusName, Count]] = {}
    dead_letters: dict[str, Count] = {}
    drops: dict[str, Count] = {}
    score_table_bytes: Count | None = None


class _Conservation(msgspec.Struct):
    rows_read: Count
    rows_in_groups: Count
    dead_letters: Count
    drops: Count
    holds: bool


class _File(msgspec.Struct):
    path: str
    size: Count
    etag: str | None = None
    mtime: _Time | None = None


class _Throughput(msgspec.Struct):
    candidates_per_s: float
    tokens_per_s: float = 0.0


class _Stage(msgspec.Struct):
    busy_s: float
    waited: float | None = None


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    nothing_to_verify: str


class _Verified(msgspec.Struct):
    tolerance: float
    groups: Count
    candidates: Count
    max_delta: float | None
    mean_delta: float | None
    beyond_tolerance: Count
    not_rescored: Count = 0
    worst_prompt_id: str | None = None
    error: str | None = None


class _Any(msgspec.Struct):
    """A manifest, of which one that was made by hand may lack most."""

    recipe: _Recipe
    counts: _Counts
    fingerprints: dict[str, dict[str, str]]
    inputs: list[_File] = []
    conservation: _Conservation | None = None
    throughput: _Throughput | None = None
    stage_seconds: dict[str, float] = {}
    stages: dict[str, _Stage] = {}
    verification: dict[str, dict[str, Any]] = {}
    versions: dict[str, str] = {}


_REQUIRED = ("rows", "rows_in_groups", "splits", "tokens", "statuses", "dead_letters", "drops")
"""Counts of every run, beside those that a table made by hand has too."""


def decode_manifest(data: bytes, path: str) -> dict[str, Any]:
    """Returns the manifest of a run as plain data, with its recipe, counts and fingerprints at least.

    Raises:
        OutputError: It is damaged.
    """
    _checked(data, path, "restore it from a copy")
    return decode_record(data, path, dict[str, Any])


def decode_whole(data: bytes, path: str, type: type[ManifestT], remedy: str) -> ManifestT:
    """Returns the manifest of a run with everything that a run writes into it.

    Raises:
        OutputError: It is damaged.
    """
    checked = _checked(data, path, remedy)
    manifest = decode_record(data, path, type, remedy)
    held = decode_record(data, path, dict[str, Any])
    lacking = [f"counts.{name}" for name in _REQUIRED if name not in held["counts"]]
    parts = {
        "conservation": checked.conservation,
        "throughput": checked.throughput,
        "recipe.input": checked.recipe.input,
    }
    lacking += [name for name, part in parts.items() if part is None]
    if checked.recipe.input is not None:
        held_input = held["recipe"]["input"]
        lacking += [f"recipe.input.{name}" for name in _Input.__struct_fields__ if name not in held_input]
    names = [*(checked.recipe.scorers or ([""] if checked.recipe.scorer is not None else []))]
    if not names:
        lacking.append("recipe.scorer")
    lacking += [f"fingerprints of scorer {name!r}" for name in names if name not in checked.fingerprints]
    lacking += [f"scorer {name!r}" for name in _scoring(checked.stages) if name not in names]
    if lacking:
        raise OutputError(f"{path} is damaged, or is no record of polar_ray (it lacks {lacking[0]}); {remedy}")
    return manifest


def _checked(data: bytes, path: str, remedy: str) -> _Any:
    checked = decode_record(data, path, _Any, remedy)
    for entry in checked.verification.values():
        kind: Any = _Nothing if "nothing_to_verify" in entry else _Verified
        decode_record(msgspec.json.encode(entry), path, kind, remedy)
    for fingerprint in checked.fingerprints.values():
        if "target" in fingerprint:
            # Earlier versions wrote the settings of a custom scorer as JSON.
            decode_record(fingerprint.get("settings", "{}").encode(), path, dict[str, Any], remedy)
    return checked


def _scoring(stages: dict[str, _Stage]) -> list[str]:
    """Returns the names of the scorers of which stages tell how long they waited."""
    parts = {stage: stage.partition(" ") for stage, time in stages.items() if time.waited is not None}
    return [name for kind, _, name in parts.values() if kind == "score"]
