"""The manifest of a finished run says what was read, with what, and what came of it."""

import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pytest
import ray
import torch
import transformers
from runs import TESTS, part_files

import polar_ray
from polar_ray.running.folder import RunFolder
from polar_ray.running.manifest import Manifest, read_manifest


@pytest.fixture
def output(finished: tuple[Path, Manifest]) -> Path:
    return finished[0]


@pytest.fixture
def manifest(output: Path) -> dict[str, Any]:
    return msgspec.json.decode((output / "manifest.json").read_bytes())


def test_it_has_every_key_and_no_other(manifest: dict[str, Any]) -> None:
    assert set(manifest) == {
        "recipe",
        "inputs",
        "fingerprints",
        "counts",
        "conservation",
        "started",
        "finished",
        "duration_s",
        "scoring_s",
        "throughput",
        "resumed_splits",
        "stage_seconds",
        "versions",
        "stages",
        "startup_s",
        "parent",
        "verification",
        "generation",
    }


def test_the_file_holds_what_the_run_returned(finished: tuple[Path, Manifest]) -> None:
    assert read_manifest(RunFolder.of(str(finished[0]))) == finished[1]


def test_it_is_readable_by_people(output: Path) -> None:
    assert (output / "manifest.json").read_text().startswith('{\n  "recipe": {\n    "name": "finished",\n')


def test_it_names_the_inputs_with_size_and_version(manifest: dict[str, Any], output: Path) -> None:
    path = output.parent / "in.jsonl"
    (entry,) = manifest["inputs"]
    assert entry == {"path": str(path), "size": path.stat().st_size, "mtime": entry["mtime"]}
    assert float(entry["mtime"]) == pytest.approx(path.stat().st_mtime, abs=1e-3)


def test_it_holds_the_resolved_recipe(manifest: dict[str, Any]) -> None:
    assert manifest["recipe"]["scorer"] == {
        "kind": "text_closeness",
        "references": "max",
        "math": True,
        "timeout_s": 5.0,
        "group_timeout_s": 30.0,
    }
    assert manifest["recipe"]["input"]["split_rows"] == 10
    assert manifest["recipe"]["limits"]["max_attempts"] == 2


def test_it_counts_rows_groups_candidates_and_what_became_of_them(manifest: dict[str, Any], output: Path) -> None:
    assert manifest["counts"] == {
        "rows": 43,
        "rows_in_groups": 41,
        "groups": 41,
        "candidates": 277,
        "splits": 5,
        "tokens": {"": 0},
        "statuses": {"": {"no_reference": 1, "ok": 276}},
        "dead_letters": {"invalid_json": 1},
        "drops": {"blank_line": 1},
        "score_table_bytes": sum(map(len, part_files(output).values())),
    }
    assert manifest["conservation"] == {
        "rows_read": 43,
        "rows_in_groups": 41,
        "dead_letters": 1,
        "drops": 1,
        "holds": True,
    }


def test_it_fingerprints_what_can_change_a_score(manifest: dict[str, Any]) -> None:
    fingerprint = manifest["fingerprints"][""]
    assert fingerprint["kind"] == "text_closeness"
    assert fingerprint["setting:references"] == "max"
    assert {"scoring_code", "library:math-verify", "setting:timeout_s"} <= set(fingerprint)


def test_times_and_rates_fit_together(manifest: dict[str, Any]) -> None:
    started, finished = (datetime.fromisoformat(manifest[name]) for name in ("started", "finished"))
    assert started.tzinfo == finished.tzinfo == timezone.utc
    assert abs((finished - started).total_seconds() - manifest["duration_s"]) <= 2
    assert 0 < manifest["scoring_s"] <= manifest["duration_s"]
    rate = manifest["throughput"]["candidates_per_s"]
    assert rate * manifest["scoring_s"] == pytest.approx(277, rel=0.02)
    assert manifest["throughput"]["tokens_per_s"] == 0
    assert manifest["resumed_splits"] == 0
    assert set(manifest["stage_seconds"]) == {"read", "parse", "score:", "write"}
    assert all(seconds > 0 for seconds in manifest["stage_seconds"].values())


def test_it_names_the_versions(manifest: dict[str, Any]) -> None:
    found = {name: version.split("+")[0] for name, version in manifest["versions"].items()}
    assert found == {
        "polar_ray": polar_ray.__version__,
        "python": platform.python_version(),
        "ray": ray.__version__,
        "pyarrow": pyarrow.__version__,
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }


def test_every_model_file_is_in_the_fingerprint_by_its_hash() -> None:
    import hashlib

    from polar_ray.recipe.scorers import Polar
    from polar_ray.scorers.catalog import fingerprint_of

    folder = TESTS / "golden" / "polar" / "polar_tiny_a"
    fingerprint = fingerprint_of(Polar(model=str(folder)))
    for path in folder.glob("*.safetensors"):
        assert fingerprint[f"file:{path.name}"] == hashlib.sha256(path.read_bytes()).hexdigest()
