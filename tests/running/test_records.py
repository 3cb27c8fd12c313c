"""A damaged record is one sentence: what, where, what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from runs import commit
from score_tables import group, score_table, write_run

from polar_ray.deriving.derive import derive
from polar_ray.deriving.report.report import report
from polar_ray.errors import PolarRayError, RecipeChanged, RecipeError
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.running.folder import Commit, RunFolder
from polar_ray.running.identity import read_identity
from polar_ray.running.keep import read_origins
from polar_ray.running.manifest import read_manifest

DAMAGED = {
    "cut": b'{"recipe": {"na',
    "empty": b"",
    "of another type": b"[1, 2]",
    "not UTF-8": b'{"recipe": "\xff"}',
    "nested": b'{"a":' * 5000,
    "an object": b"{}",
}
READERS: dict[str, Callable[[RunFolder], Any]] = {
    "manifest.json": read_manifest,
    "_run/run.json": read_identity,
    "_run/commits/00000-00000.json": RunFolder.read_commits,
    "_run/token_budgets.json": RunFolder.read_budgets,
    "_run/origins/00000-00000.json": lambda folder: read_origins(folder, "00000-00000"),
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", score_table([group(f"p{number}", [2.0, 1.0]) for number in range(3)]))


def one_sentence(act: Callable[[], object]) -> str:
    with pytest.raises(PolarRayError) as refused:
        act()
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_record_is_named_with_a_way_on(tmp_path: Path, name: str, damage: str) -> None:
    if damage == "an object" and name in ("_run/token_budgets.json", "_run/origins/00000-00000.json"):
        pytest.skip("nothing is agreed on, or nothing was scored again")
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(DAMAGED[damage])
    message = one_sentence(lambda: READERS[name](RunFolder(str(tmp_path))))
    assert message.startswith(str(path))
    assert "restore it from a copy" in message


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_manifest_ends_a_report_and_a_derivation_in_one_sentence(run: Path, damage: str) -> None:
    (run / "manifest.json").write_bytes(DAMAGED[damage])
    recipe = DeriveRecipe.of({"run": {"path": str(run)}, "pairs": {}, "output": {"path": str(run.parent / "pairs")}})
    for act in (lambda: report(str(run), str(run.parent / "page.html")), lambda: derive(recipe)):
        assert one_sentence(act).startswith(f"{run}/manifest.json is damaged")
    assert not (run.parent / "page.html").exists()
    assert not (run.parent / "pairs").exists()


def test_records_that_are_whole_are_read(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    (tmp_path / "_run" / "commits").mkdir(parents=True)
    (tmp_path / "_run" / "commits" / "00000-00000.json").write_bytes(msgspec.json.encode(commit()))
    folder.write_budgets({"a": 4096})
    assert folder.read_commits() == {"00000-00000": commit()}
    assert isinstance(folder.read_commits()["00000-00000"], Commit)
    assert folder.read_budgets() == {"a": 4096}


def test_a_dataset_that_was_derived_otherwise_is_refused_with_the_keys(run: Path, tmp_path: Path) -> None:
    data = {"run": {"path": str(run)}, "pairs": {}, "output": {"path": str(tmp_path / "pairs")}}
    derive(DeriveRecipe.of(data))
    changed = DeriveRecipe.of(data, ["pairs.min_margin=0.25", "seed=3"])
    with pytest.raises(
        RecipeChanged, match=r"recipe\.seed was 0 and is 3; .*min_margin was 0\.0 and is 0\.25; give another"
    ):
        derive(changed)
    marker = tmp_path / "pairs" / "_derive" / "derive.json"
    record = json.loads(marker.read_text())
    record["versions"]["numpy"] = "1.0"
    marker.write_text(json.dumps(record))
    # What is finished is what it is: other libraries do not make it another.
    assert derive(DeriveRecipe.of(data)).versions["numpy"] != "1.0"


def test_a_scorer_without_a_name_is_not_shown_as_one(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'length'; it has a single one without a name, so leave --scorer out"):
        report(str(run), str(tmp_path / "page.html"), scorer="length")
