"""``verify``: a sample is scored again plainly during the run. The score table is none the wiser."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import xxhash
from conftest import rows, write_jsonl
from runs import TINY_POLAR, part_files, recipe

from polar_ray.recipe.recipe import Recipe
from polar_ray.running.identity import Identity
from polar_ray.running.manifest import Manifest
from polar_ray.running.run import run
from polar_ray.running.verified import failed, verification_line, verification_of
from polar_ray.scorers.verification import Verification

DATA = rows(20)
SHARE = 0.3
SAMPLED = [row["prompt_id"] for row in DATA if xxhash.xxh3_64_intdigest(row["prompt_id"].encode()) < SHARE * 2**64]


def polar(path: Path, output: Path, *overrides: str) -> Recipe:
    return recipe(path, output, "input.split_rows=4", *overrides, scorer=TINY_POLAR)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("verify") / "in.jsonl", DATA)


@pytest.fixture(scope="module")
def unverified(data: Path, embedded_ray: None) -> tuple[Path, Manifest]:
    output = data.parent / "unverified"
    return output, run(polar(data, output))


@pytest.fixture(scope="module")
def verified(data: Path, embedded_ray: None) -> tuple[Path, Manifest]:
    output = data.parent / "verified"
    return output, run(polar(data, output, f"verify={SHARE}"))


def test_the_sample_was_scored_again_and_came_out_the_same(verified: tuple[Path, Manifest]) -> None:
    entry = verified[1].verification[""]
    assert entry["share"] == SHARE
    assert entry["groups"] == len(SAMPLED)
    assert entry["candidates"] == 3 * len(SAMPLED)
    assert (entry["beyond_tolerance"], entry["not_rescored"]) == (0, 0)
    assert entry["tolerance"] == 1e-4
    assert 0 <= entry["mean_delta"] <= entry["max_delta"] < 1e-4
    assert entry["worst_prompt_id"] in SAMPLED


def test_the_score_table_is_the_same_byte_for_byte(
    verified: tuple[Path, Manifest], unverified: tuple[Path, Manifest]
) -> None:
    assert part_files(verified[0]) == part_files(unverified[0])


def test_a_run_that_did_not_ask_has_no_entry(unverified: tuple[Path, Manifest]) -> None:
    assert unverified[1].verification == {}


def test_it_does_not_change_what_a_run_is(data: Path) -> None:
    plain, verifying = polar(data, data.parent / "out"), polar(data, data.parent / "out", "verify=1")
    assert Identity.of(plain, [], {}) == Identity.of(verifying, [], {})


def resumed(finished: Path, output: Path, kept: list[str], wanted: Recipe) -> Manifest:
    """Copies a finished run, takes all splits but some out of the copy, and finishes it again."""
    shutil.copytree(finished, output)
    (output / "manifest.json").unlink()
    for record in (output / "_run" / "commits").iterdir():
        if record.stem not in kept:
            record.unlink()
            (output / "scores" / f"part-{record.stem}.parquet").unlink()
    return run(wanted)


@pytest.mark.usefixtures("embedded_ray")
def test_its_figures_survive_an_interruption(data: Path, verified: tuple[Path, Manifest], tmp_path: Path) -> None:
    wanted = polar(data, tmp_path / "out", f"verify={SHARE}")
    again = resumed(verified[0], tmp_path / "out", ["00000-00000", "00000-00003"], wanted)
    assert again.resumed_splits == 2
    assert again.verification == verified[1].verification


@pytest.mark.usefixtures("embedded_ray")
def test_a_share_so_small_that_it_meets_nobody_is_said_to(data: Path, tmp_path: Path) -> None:
    manifest = run(polar(data, tmp_path / "out", "verify=1e-12"))
    assert manifest.counts["statuses"] == {"": {"ok": 60}}
    assert verification_line("", manifest.verification[""]) == (
        "verification: nothing to verify, no group is in the sample: a share of 1e-12 chosen by the hash of prompt_id "
        "met none; raise verify"
    )
    assert not failed(manifest.verification[""])


def test_an_entry_of_an_earlier_version_that_verified_no_group_still_has_its_line() -> None:
    figures = ("groups", "candidates", "max_delta", "mean_delta", "beyond_tolerance", "not_rescored")
    entry = {"share": 1e-6, "tolerance": 1e-4, **dict.fromkeys(figures, 0), "worst_prompt_id": None, "error": None}
    assert verification_line("", entry).startswith("verification: 0 candidates of 0 groups scored again plainly")


@pytest.mark.usefixtures("embedded_ray")
def test_a_scorer_without_a_model_has_nothing_to_verify(data: Path, tmp_path: Path) -> None:
    manifest = run(recipe(data, tmp_path / "out", "verify=0.5"))
    assert manifest.verification == {"": {"nothing_to_verify": "length has no model"}}
    line = verification_line("", manifest.verification[""])
    assert line == "verification: nothing to verify, length has no model"


def entry_of(**figures: Any) -> dict[str, Any]:
    wanted = recipe("in", "out", "verify=0.1", scorer=TINY_POLAR)
    return verification_of(wanted, {"": Verification(1e-4, groups=2, candidates=8, worst="p'7", **figures)})[""]


def test_rewards_that_are_too_far_apart_are_said_loudly() -> None:
    entry = entry_of(beyond=3, max_delta=0.5, sum_delta=0.8)
    assert failed(entry)
    line = verification_line("", entry)
    assert line.startswith("VERIFICATION FAILED. ")
    assert "8 candidates of 2 groups scored again plainly, max |Δ| 0.5, mean |Δ| 0.1, tolerance 0.0001" in line
    assert '3 candidates are beyond the tolerance, worst in the group with prompt_id "p\'7"' in line


def test_rewards_that_agree_are_said_quietly() -> None:
    entry = entry_of(max_delta=1e-6, sum_delta=4e-6)
    assert not failed(entry)
    assert verification_line("polar", entry) == (
        "verification of polar: 8 candidates of 2 groups scored again plainly, max |Δ| 1e-06, mean |Δ| 5e-07, "
        "tolerance 0.0001"
    )


def test_candidates_that_could_not_be_scored_again_are_told() -> None:
    line = verification_line("", entry_of(failed=5, error="MemoryError: no memory"))
    assert line.endswith("; 5 candidates could not be scored again (MemoryError: no memory)")
