"""A run resumes only as what it was, and says which field changed."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from runs import TESTS, TINY_POLAR, files_below

from polar_ray.data.listing import InputFile
from polar_ray.errors import NotARun, RecipeChanged
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.establish import establish
from polar_ray.running.folder import RunFolder
from polar_ray.running.identity import Identity, describe
from polar_ray.scorers.catalog import fingerprint_of

FILES = [
    InputFile("/in/a.jsonl", 100, None, 5.0, "jsonl", None),
    InputFile("s3://b/c.parquet", 7, "e1", 6.0, "parquet", None),
]


def identity(*overrides: str, files: list[InputFile] = FILES, **parts: Any) -> Identity:
    base = {"input": {"path": "/in"}, "scorer": TINY_POLAR, "output": {"path": "/out"}}
    recipe = Recipe.of({**base, **parts}, list(overrides))
    fingerprints = {name: fingerprint_of(scorer) for name, scorer in recipe.named_scorers.items()}
    return Identity.of(recipe, files, fingerprints)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder.of(str(tmp_path / "run"))
    establish(folder, identity())
    return folder


def test_the_same_run_goes_on(folder: RunFolder) -> None:
    establish(folder, identity())


def test_a_file_is_known_by_its_etag_or_else_its_time() -> None:
    assert [describe(file) for file in FILES] == [{"size": 100, "mtime": "5.0"}, {"size": 7, "etag": "e1"}]


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("input.split_rows=8", "input.split_rows was 256 and is 8"),
        ("input.layout=candidates", "input.layout was groups and is candidates"),
        ("input.columns.prompt=question", "input.columns.prompt was prompt and is question"),
        ("scorer.dtype=bfloat16", "fingerprints.setting:dtype was float32 and is bfloat16"),
        ("scorer.references=mean", "fingerprints.setting:references was max and is mean"),
    ],
)
def test_a_changed_setting_is_named_with_both_values(folder: RunFolder, override: str, change: str) -> None:
    with pytest.raises(RecipeChanged) as caught:
        establish(folder, identity(override))
    assert f"differs from this one: {change}; use --fresh" in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "compute.actors.max=4",
        "limits.max_dead_letters=0.9",
        "scorer.token_budget=128",
        "input.storage_options={anon: true}",
        "name=other",
    ],
)
def test_what_cannot_change_a_score_may_change(folder: RunFolder, override: str) -> None:
    establish(folder, identity(override))


def test_a_changed_input_file_is_named(folder: RunFolder) -> None:
    grown = [InputFile("/in/a.jsonl", 101, None, 5.0, "jsonl", None), FILES[1]]
    with pytest.raises(RecipeChanged, match=r"files\./in/a\.jsonl\.size was 100 and is 101"):
        establish(folder, identity(files=grown))
    with pytest.raises(RecipeChanged, match=r"files\.s3://b/c\.parquet\.size was 7 and is absent"):
        establish(folder, identity(files=FILES[:1]))
    more = [*FILES, InputFile("/in/d.jsonl", 1, None, 5.0, "jsonl", None)]
    with pytest.raises(RecipeChanged, match=r"files\./in/d\.jsonl\.size was absent and is 1"):
        establish(folder, identity(files=more))


def test_other_weights_under_the_same_name_are_another_run(folder: RunFolder) -> None:
    other = {**TINY_POLAR, "model": str(TESTS / "golden" / "polar" / "polar_tiny_b")}
    with pytest.raises(RecipeChanged, match=r"fingerprints\.file:config\.json was .* and is .*"):
        establish(folder, identity(scorer=other))


def test_another_scorer_beside_the_first_is_another_run(tmp_path: Path) -> None:
    folder = RunFolder.of(str(tmp_path))
    establish(folder, identity(scorer=None, scorers={"length": {"kind": "length"}}))
    two = {"length": {"kind": "length"}, "polar": TINY_POLAR}
    with pytest.raises(RecipeChanged, match=r"fingerprints\.polar\.kind was absent and is polar"):
        establish(folder, identity(scorer=None, scorers=two))


def earlier(now: Identity, *, without: tuple[str, ...] = (), **more: str) -> Identity:
    """What a version wrote that did not know some settings yet."""
    record = msgspec.to_builtins(now)
    for key in without:
        *way, last = key.split("/")
        below = record
        for name in way:
            below = below[name]
        del below[last]
    record["input"].update(more)
    return msgspec.convert(record, Identity)


UNKNOWN_THEN = ("input/split_bytes", "input/columns/labels", "fingerprints//setting:wrapper")


def test_a_setting_that_an_earlier_version_did_not_know_is_at_its_default(tmp_path: Path) -> None:
    folder = RunFolder.of(str(tmp_path / "run"))
    establish(folder, earlier(identity(), without=UNKNOWN_THEN))
    establish(folder, identity())


@pytest.mark.parametrize(
    ("override", "change"),
    [
        ("input.split_bytes=5", "input.split_bytes was 16777216 and is 5"),
        ("input.columns.labels=judged", "input.columns.labels was labels and is judged"),
        ("scorer.wrapper=pretrain", "fingerprints.setting:wrapper was sft and is pretrain"),
    ],
)
def test_and_differs_from_any_other_value(tmp_path: Path, override: str, change: str) -> None:
    folder = RunFolder.of(str(tmp_path / "run"))
    establish(folder, earlier(identity(), without=UNKNOWN_THEN))
    with pytest.raises(RecipeChanged, match=change):
        establish(folder, identity(override))


def test_a_setting_of_a_later_version_is_a_change_that_is_named(tmp_path: Path) -> None:
    folder = RunFolder.of(str(tmp_path / "run"))
    establish(folder, earlier(identity(), to_come="yes"))
    with pytest.raises(RecipeChanged, match=r"input\.to_come was yes and is absent"):
        establish(folder, identity())


def test_many_changes_are_counted_and_the_first_three_are_shown(folder: RunFolder) -> None:
    with pytest.raises(RecipeChanged) as caught:
        establish(
            folder,
            identity("input.split_rows=1", "input.split_bytes=2", "scorer.dtype=float16", "scorer.max_length=99"),
        )
    assert str(caught.value).count(" was ") == 3
    assert "(and 1 more)" in str(caught.value)


def test_a_folder_with_files_of_another_kind_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(NotARun, match="nothing is written there"):
        establish(RunFolder.of(str(tmp_path)), identity())
    assert files_below(tmp_path) == {"thesis.tex"}


def test_a_damaged_record_is_named_and_nothing_is_done_there(folder: RunFolder) -> None:
    Path(folder.identity).write_bytes(b'{"input": {')
    for fresh in (False, True):
        with pytest.raises(NotARun, match=r"_run/run\.json is not the record of a run of polar_ray"):
            establish(folder, identity(), fresh=fresh)


def test_credentials_are_not_written_down(tmp_path: Path) -> None:
    folder = RunFolder.of(str(tmp_path))
    establish(folder, identity("input.storage_options={key: AKIA, secret: very-secret}"))
    assert b"very-secret" not in (tmp_path / "_run" / "run.json").read_bytes()
