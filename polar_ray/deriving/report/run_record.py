"""What a run's manifest and dead letters say, as a report shows it."""

import hashlib
from collections import defaultdict
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.data.parts import decoding
from polar_ray.data.storage import Storage
from polar_ray.recipe.secrets import masked_recipe
from polar_ray.scorers.fingerprint import hashed

LETTERS = 3
"""Dead letters of each reason that are shown."""
LETTER_FILES = 200
"""Files of dead letters that are looked through for them, at most."""
RAW = 300
"""Bytes of a dead letter's row that are shown."""


def run_record(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns the parts of a manifest that a report shows; what an older or simpler one lacks is None or empty."""
    recipe, counts = masked_recipe(manifest["recipe"]), manifest["counts"]
    fingerprints = {name: hashed(parts) for name, parts in manifest["fingerprints"].items()}
    return {
        "name": recipe["name"],
        "started": manifest.get("started"),
        "finished": manifest.get("finished"),
        "duration_s": manifest.get("duration_s"),
        "scoring_s": manifest.get("scoring_s"),
        "throughput": manifest.get("throughput", {}),
        "resumed_splits": manifest.get("resumed_splits", 0),
        "stages": _stages(manifest),
        "verification": manifest.get("verification", {}),
        "inputs": manifest.get("inputs", []),
        "conservation": manifest.get("conservation"),
        "dead_letters": _largest_first(counts.get("dead_letters", {})),
        "drops": _largest_first(counts.get("drops", {})),
        "splits": counts.get("splits"),
        "score_table_bytes": counts.get("score_table_bytes"),
        "fingerprints": {name: short_fingerprint(parts) for name, parts in fingerprints.items()},
        "fingerprint_parts": fingerprints,
        "versions": manifest.get("versions", {}),
        "recipe": recipe,
    }


def kinds_of(manifest: dict[str, Any]) -> dict[str, str]:
    """Returns the kind of each scorer in the recipe, by its name; the empty name stands for a single one."""
    recipe = manifest["recipe"]
    scorers = recipe.get("scorers") or {"": recipe.get("scorer")}
    return {name: scorer["kind"] for name, scorer in scorers.items() if scorer}


def short_fingerprint(parts: dict[str, str]) -> str:
    """Returns 12 hexadecimal digits that change with anything that can change a score."""
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:12]


def dead_letters(storage: Storage, *, text: bool) -> list[dict[str, Any]]:
    """Returns the first dead letters of each reason, in the order of the files."""
    found: dict[str, list[dict[str, Any]]] = {}
    for info in storage.list(storage.join("dead_letters"))[:LETTER_FILES]:
        if not info.path.endswith(".parquet"):
            continue
        with decoding(info.path):
            first = storage.read_with(info.path, _first_letters)
        for letter in first:
            same = found.setdefault(letter["reason"], [])
            if len(same) < LETTERS:
                raw = letter.pop("raw") or b""
                shown = raw[:RAW].decode("utf-8", "replace") + (" …" if len(raw) > RAW else "")
                same.append(letter | ({"raw": shown} if text else {"message": None}))
    return [letter for reason in sorted(found) for letter in found[reason]]


def _first_letters(file: pa.NativeFile) -> list[dict[str, Any]]:
    """Returns the first dead letters of each reason in a file."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for batch in pq.ParquetFile(file).iter_batches(64):
        for letter in batch.to_pylist():
            if len(found[letter["reason"]]) < LETTERS:
                found[letter["reason"]].append(letter)
    return [letter for letters in found.values() for letter in letters]


def _stages(manifest: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Returns ``busy_s`` of each stage, and ``waited``, a share, where the manifest tells it."""
    if manifest.get("stages"):
        return dict(manifest["stages"])
    return {stage.rstrip(":"): {"busy_s": spent} for stage, spent in manifest.get("stage_seconds", {}).items()}


def _largest_first(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
