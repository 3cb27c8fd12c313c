"""A run goes on from what is committed, and ends as if it had never been interrupted."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import rows, write_jsonl, write_parquet
from runs import TINY_POLAR, Listening, files_below, part_files, recipe, score_table

from polar_ray.data.lines import BLANKS_COUNT, READING
from polar_ray.errors import NotARun, OutputError, RecipeChanged
from polar_ray.models.checkpoint import scored_files
from polar_ray.models.hashes import sha256_of
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.folder import RunFolder
from polar_ray.running.identity import read_identity
from polar_ray.running.retry import retry
from polar_ray.running.run import run

pytestmark = pytest.mark.usefixtures("embedded_ray")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "in"
    data = rows(14)
    # Rows 8 and 9 repeat prompts of the first split, and one line is not JSON.
    write_jsonl(folder / "a.jsonl", [*data[:8], data[0], {**data[1], "lang": "de"}])
    with (folder / "a.jsonl").open("ab") as file:
        file.write(b"{\n")
    write_parquet(folder / "b.parquet", [*data[8:], data[2]])
    return folder


def wanted(inputs: Path, output: Path, *overrides: str, **parts: Any) -> Recipe:
    return recipe(inputs, output, "input.split_rows=3", *overrides, **parts)


@pytest.fixture(scope="module")
def fresh(inputs: Path) -> Path:
    run(wanted(inputs, inputs.parent / "out"))
    return inputs.parent / "out"


@pytest.fixture
def copy(fresh: Path, tmp_path: Path) -> Path:
    shutil.copytree(fresh, tmp_path / "out")
    return tmp_path / "out"


def lasting(output: Path) -> dict[str, bytes]:
    """All files of a run whose content does not depend on time."""
    names = {name for name in files_below(output) if name.split("/")[0] in ("scores", "dead_letters")}
    return {name: (output / name).read_bytes() for name in names | {"_run/run.json"}}


def counts(output: Path) -> dict[str, Any]:
    manifest = msgspec.json.decode((output / "manifest.json").read_bytes())
    return {name: manifest[name] for name in ("counts", "conservation", "fingerprints", "inputs")}


LEFTOVER = f".tmp-{'0f' * 16}"
"""A file of a name that writers give while they write."""


def test_the_run_is_worth_interrupting(fresh: Path) -> None:
    assert len(part_files(fresh)) == 7
    assert counts(fresh)["counts"]["dead_letters"] == {
        "duplicate_prompt_id": 1,
        "duplicate_row": 2,
        "invalid_json": 1,
    }


def test_what_is_missing_is_done_again_to_the_same_bytes(inputs: Path, fresh: Path, copy: Path) -> None:
    (copy / "manifest.json").unlink()
    # Killed before the commit record, before the part, before anything; and a writer's leftovers.
    for split, kinds in {"00000-00000": ["commits"], "00000-00003": ["commits", "scores"]}.items():
        remove(copy, split, kinds)
    remove(copy, "00000-00002", ["commits", "scores", "dead_letters"])
    remove(copy, "00001-00001", ["commits", "scores"])
    (copy / "scores" / LEFTOVER).write_bytes(b"half a part")
    listening = Listening()
    manifest = run(wanted(inputs, copy), reporter=listening)
    assert manifest.resumed_splits == 3
    assert listening.said[0].startswith("resuming: 3 splits with ")
    # With the run finished, the leftovers are nobody's.
    assert not (copy / "scores" / LEFTOVER).exists()
    assert lasting(copy) == lasting(fresh)
    assert counts(copy) == counts(fresh)


def remove(output: Path, split: str, kinds: list[str]) -> None:
    for kind in kinds:
        folder = output / "_run" / "commits" if kind == "commits" else output / kind
        for path in folder.glob(f"*{split}*"):
            path.unlink()


def test_a_run_that_lacks_only_its_manifest_scores_nothing(inputs: Path, fresh: Path, copy: Path) -> None:
    (copy / "manifest.json").unlink()
    before = lasting(copy)
    manifest = run(wanted(inputs, copy))
    assert manifest.resumed_splits == 7
    assert manifest.throughput == {"candidates_per_s": 0, "tokens_per_s": 0}
    assert lasting(copy) == before
    assert counts(copy) == counts(fresh)


def test_a_finished_run_is_left_as_it_is(inputs: Path, copy: Path) -> None:
    before = {name: (copy / name).read_bytes() for name in files_below(copy)}
    listening = Listening()
    manifest = run(wanted(inputs, copy), reporter=listening)
    assert listening.said == [f"{copy} holds this run, finished; nothing to do (--fresh starts over)"]
    assert msgspec.json.encode(manifest) == msgspec.json.encode(msgspec.json.decode(before["manifest.json"]))
    assert {name: (copy / name).read_bytes() for name in files_below(copy)} == before


@pytest.mark.parametrize("finished", [True, False])
def test_another_recipe_does_not_go_on_in_the_same_folder(inputs: Path, copy: Path, finished: bool) -> None:
    if not finished:
        (copy / "manifest.json").unlink()
    before = {name: (copy / name).read_bytes() for name in files_below(copy)}
    with pytest.raises(RecipeChanged, match=r"input\.split_rows was 3 and is 4; use --fresh"):
        run(wanted(inputs, copy, "input.split_rows=4"))
    with pytest.raises(RecipeChanged, match=r"fingerprints\.kind was absent and is text_closeness"):
        run(wanted(inputs, copy, scorer={"kind": "text_closeness"}))
    assert {name: (copy / name).read_bytes() for name in files_below(copy)} == before


def test_fresh_starts_over_and_keeps_what_is_not_the_runs(inputs: Path, copy: Path) -> None:
    (copy / "notes.txt").write_text("mine")
    listening = Listening()
    manifest = run(wanted(inputs, copy, "input.split_rows=20"), fresh=True, reporter=listening)
    assert listening.said == []
    assert manifest.resumed_splits == 0
    assert list(part_files(copy)) == ["part-00000-00000.parquet", "part-00001-00000.parquet"]
    assert (copy / "notes.txt").read_text() == "mine"
    assert manifest.counts["groups"] == 14


@pytest.mark.parametrize("fresh_start", [True, False])
def test_a_folder_that_is_no_run_is_refused_and_left_alone(inputs: Path, tmp_path: Path, fresh_start: bool) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(NotARun, match="nothing is written there"):
        run(wanted(inputs, tmp_path), fresh=fresh_start)
    assert files_below(tmp_path) == {"thesis.tex"}


def test_scattered_input_goes_on_partition_by_partition(tmp_path: Path) -> None:
    lines = [
        {"prompt_id": row["prompt_id"], "prompt": row["prompt"], **candidate}
        for row in rows(12)
        for candidate in row["candidates"]
    ]
    write_jsonl(tmp_path / "in" / "a.jsonl", [*lines[::2], {"prompt_id": 1}])
    write_jsonl(tmp_path / "in" / "b.jsonl", lines[1::2])
    overrides = ["input.layout=scattered", "input.split_bytes=1500"]
    run(wanted(tmp_path / "in", tmp_path / "fresh", *overrides))
    shutil.copytree(tmp_path / "fresh", tmp_path / "again")
    (tmp_path / "again" / "manifest.json").unlink()
    partitions = sorted(path.stem for path in (tmp_path / "again/_run/commits").glob("scattered-*"))
    assert len(partitions) > 2
    for split in partitions[::2]:
        remove(tmp_path / "again", split, ["commits", "scores"])
    run(wanted(tmp_path / "in", tmp_path / "again", *overrides))
    assert lasting(tmp_path / "again") == lasting(tmp_path / "fresh")
    assert counts(tmp_path / "again") == counts(tmp_path / "fresh")
    assert json.loads((tmp_path / "again/manifest.json").read_text())["counts"]["groups"] == 12


def test_a_run_does_not_go_where_a_retry_of_another_would(inputs: Path, copy: Path) -> None:
    with pytest.raises(OutputError, match=f"the place of a retry of the run in {copy}"):
        run(wanted(inputs, copy / "generations" / "2"))
    assert not (copy / "generations").exists()


def test_a_finished_run_is_told_without_a_cluster_and_its_model_is_not_read_again(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wanted = recipe(inputs, tmp_path / "out", scorers={"length": {"kind": "length"}, "polar": TINY_POLAR})
    scored = run(wanted)
    # The actors of the shared Ray know another home: what they found is asked for once here.
    for path in scored_files(Path(TINY_POLAR["model"])):
        sha256_of(path)
    listening = Listening()
    with monkeypatch.context() as patched:
        for target in ("polar_ray.running.run.connected", "polar_ray.models.hashes._hash"):
            patched.setattr(target, not_needed)
        assert run(wanted, reporter=listening) == scored
    assert listening.said == [f"{tmp_path / 'out'} holds this run, finished; nothing to do (--fresh starts over)"]
    with pytest.raises(RecipeChanged, match=r"setting:dtype was float32 and is bfloat16"):
        run(Recipe.of(wanted.model_dump(mode="json"), ["scorers.polar.dtype=bfloat16"]))


def not_needed(*_: object, **__: object) -> None:
    raise AssertionError("nothing is to be computed")


def test_a_run_begun_when_blank_lines_filled_splits_goes_on_in_the_same_splits(tmp_path: Path) -> None:
    lines = [json.dumps(row).encode() for row in rows(3)]
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "a.jsonl"
    file.write_bytes(b"\n".join([b"", lines[0], b"", b"  ", lines[1], b"{", lines[2], b""]))
    now, old = (recipe(tmp_path / "in", tmp_path / name, "input.split_rows=2") for name in ("now", "old"))
    run(now)
    record = json.loads((tmp_path / "now/_run/run.json").read_bytes())
    assert record.pop("reading") == READING
    (tmp_path / "old/_run").mkdir(parents=True)
    (tmp_path / "old/_run/run.json").write_text(json.dumps(record))
    manifest = run(old)
    assert manifest.counts["drops"] == {"blank_line": 3}
    parts = part_files(tmp_path / "old")
    splits = ["00000-00000", "00000-00001", "00000-00002", "00000-00003"]
    assert sorted(path.stem for path in (tmp_path / "old/_run/commits").iterdir()) == splits
    assert len(list((tmp_path / "now/_run/commits").iterdir())) == 2
    assert score_table(tmp_path / "old").equals(score_table(tmp_path / "now"))

    (tmp_path / "old/manifest.json").unlink()
    (tmp_path / "old/_run/commits/00000-00002.json").unlink()
    run(old)
    assert part_files(tmp_path / "old") == parts

    file.write_bytes(file.read_bytes().replace(b"{\n", b"\n"))
    assert retry(str(tmp_path / "old")).conservation["dead_letters"] == 0
    identity = read_identity(RunFolder.of(str(tmp_path / "old/generations/2")))
    assert identity is not None
    assert identity.reading == BLANKS_COUNT


@pytest.mark.parametrize("damage", [b"", b"half", None])
def test_a_finished_table_with_a_damaged_part_is_no_finished_table_and_the_way_on_that_is_said_makes_it_whole(
    inputs: Path, fresh: Path, copy: Path, damage: bytes | None
) -> None:
    part = copy / "scores" / "part-00000-00001.parquet"
    part.unlink() if damage is None else part.write_bytes(damage)
    with pytest.raises(OutputError, match=rf"{part.name}.*delete {copy}/manifest.json and run the command again"):
        run(wanted(inputs, copy))
    with pytest.raises(OutputError, match=part.name):
        retry(str(copy))
    (copy / "manifest.json").unlink()
    told = Listening()
    run(wanted(inputs, copy), reporter=told)
    assert "1 splits whose parts are gone or damaged are scored again" in told.said
    assert lasting(copy) == lasting(fresh)
