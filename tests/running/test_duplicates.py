"""A prompt that occurs in several splits is kept once, and what is taken out is not lost."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import rows, write_jsonl, write_parquet
from runs import dead_letters, files_below, recipe, score_table

from polar_ray.data.listing import list_input
from polar_ray.data.reading import read_source
from polar_ray.data.sources import plan_sources
from polar_ray.recipe.recipe import Recipe
from polar_ray.running import duplicates
from polar_ray.running.commit import commit_split
from polar_ray.running.duplicates import remove_duplicates
from polar_ray.running.envelope import Envelope
from polar_ray.running.folder import Commit, Removal, RunFolder
from polar_ray.running.stages import Encode, pack
from polar_ray.scorers.catalog import make_scorer


def commit_all(recipe: Recipe) -> tuple[RunFolder, list[Commit]]:
    """Does what the stages of a run do, one split after the other and without Ray."""
    folder = RunFolder.of(recipe.output.path)
    ((name, config),) = recipe.named_scorers.items()
    scorer = make_scorer(config)
    for source in plan_sources(list_input(recipe.input), recipe.input):
        for raw in read_source(source, recipe.input):
            (block,) = Encode(recipe.input, name, config)(pack(raw).to_block())
            (envelope,) = Envelope.of_block(block)
            scores = scorer.score_table(envelope.table("groups"), None)
            commit_split(folder, envelope.with_table(f"scores:{name}", scores.to_table()), (name,))
    return folder, list(folder.read_commits().values())


def group(name: str, text: str = "answer", **more: Any) -> dict[str, Any]:
    (row,) = rows(1, 2)
    return {**row, "prompt_id": name, "reference": [{"role": "assistant", "content": text}], **more}


#  Splits of two rows; ``b`` is the first of its name and stands behind a row that is taken out.
FIRST = [group("a"), group("x"), group("a"), group("b"), group("c"), group("a", "another")]
SECOND = [group("d"), group("c"), group("b", lang="de"), group("b")]
REPEATED = {
    ("1.jsonl", 2): ("duplicate_row", "a", 0, "1.jsonl"),
    ("1.jsonl", 5): ("duplicate_prompt_id", "a", 0, "1.jsonl"),
    ("2.parquet", 1): ("duplicate_row", "c", 4, "1.jsonl"),
    ("2.parquet", 2): ("duplicate_prompt_id", "b", 3, "1.jsonl"),
    ("2.parquet", 3): ("duplicate_prompt_id", "b", 2, "2.parquet"),
}
"""What is taken out → reason, prompt_id, and the row that stays. Row 3 repeats row 2 inside its split."""


@pytest.fixture
def committed(tmp_path: Path) -> tuple[RunFolder, list[Commit]]:
    write_jsonl(tmp_path / "in" / "1.jsonl", FIRST)
    write_parquet(tmp_path / "in" / "2.parquet", SECOND)
    return commit_all(recipe(tmp_path / "in", tmp_path / "out", "input.split_rows=2"))


def places(output: Path) -> list[tuple[str, int]]:
    table = score_table(output)
    files, numbers = table.column("input_file").to_pylist(), table.column("input_row").to_pylist()
    return [(Path(file).name, row) for file, row in zip(files, numbers, strict=True)]


def test_the_first_of_a_repeated_prompt_stays(committed: tuple[RunFolder, list[Commit]], tmp_path: Path) -> None:
    remove_duplicates(*committed, row_per_candidate=False)
    assert score_table(tmp_path / "out").column("prompt_id").to_pylist() == ["a", "x", "b", "c", "d"]
    assert places(tmp_path / "out") == [("1.jsonl", row) for row in (0, 1, 3, 4)] + [("2.parquet", 0)]


def test_the_others_become_dead_letters_that_name_the_first(
    committed: tuple[RunFolder, list[Commit]], tmp_path: Path
) -> None:
    remove_duplicates(*committed, row_per_candidate=False)
    letters = {(Path(letter["file"]).name, letter["row"]): letter for letter in dead_letters(tmp_path / "out")}
    assert letters.keys() == REPEATED.keys()
    for place, (reason, name, row, file) in REPEATED.items():
        letter = letters[place]
        assert (letter["stage"], letter["reason"]) == ("duplicate", reason)
        assert f"{name!r}" in letter["message"]
        if place != ("2.parquet", 3):  # This one was found inside its split.
            assert letter["message"] == f"prompt_id {name!r} is taken by row {row} of {tmp_path}/in/{file}"
            raw = msgspec.json.decode(letter["raw"])
            source = dict(zip(places_of_input(), [*FIRST, *SECOND], strict=True))[place]
            assert raw["prompt_id"] == name
            assert raw["references"] == [source["reference"]]
            assert [candidate["messages"] for candidate in raw["candidates"]] == [
                candidate["messages"] for candidate in source["candidates"]
            ]
            assert msgspec.json.decode(raw["extra"]) == {"lang": source["lang"]}


def places_of_input() -> list[tuple[str, int]]:
    return [("1.jsonl", row) for row in range(len(FIRST))] + [("2.parquet", row) for row in range(len(SECOND))]


def test_no_row_is_lost_and_none_is_in_two_places(committed: tuple[RunFolder, list[Commit]], tmp_path: Path) -> None:
    remove_duplicates(*committed, row_per_candidate=False)
    letters = [(Path(letter["file"]).name, letter["row"]) for letter in dead_letters(tmp_path / "out")]
    assert Counter([*places(tmp_path / "out"), *letters]) == Counter(places_of_input())


def test_the_removals_say_what_was_taken_out(committed: tuple[RunFolder, list[Commit]], tmp_path: Path) -> None:
    folder, commits = committed
    before = {commit.split_id: commit for commit in commits}
    removals = remove_duplicates(folder, commits, row_per_candidate=False)
    assert sum((Counter(removal.dead_letters) for removal in removals), Counter()) == {
        "duplicate_row": 2,
        "duplicate_prompt_id": 2,
    }
    assert (sum(removal.groups for removal in removals), sum(removal.candidates for removal in removals)) == (4, 8)
    assert sum((Counter(removal.statuses[""]) for removal in removals), Counter()) == {"ok": 8}
    sizes = {path.stem.removeprefix("part-"): path.stat().st_size for path in (tmp_path / "out/scores").iterdir()}
    records = folder.read_records("duplicates", Removal)
    for split, commit in before.items():
        removed = records[split].part_bytes if split in records else 0
        assert sizes[split] == commit.part_bytes - removed


def test_doing_it_again_changes_nothing(committed: tuple[RunFolder, list[Commit]], tmp_path: Path) -> None:
    first = remove_duplicates(*committed, row_per_candidate=False)
    content = contents(tmp_path / "out")
    second = remove_duplicates(*committed, row_per_candidate=False)
    assert {msgspec.json.encode(removal) for removal in first} == {msgspec.json.encode(removal) for removal in second}
    assert contents(tmp_path / "out") == content


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


def test_an_interruption_between_any_two_steps_is_made_up_for(
    committed: tuple[RunFolder, list[Commit]], tmp_path: Path
) -> None:
    folder, commits = committed
    output = tmp_path / "out"
    shutil.copytree(output, tmp_path / "before")
    removals = remove_duplicates(folder, commits, row_per_candidate=False)
    after, before = contents(output), contents(tmp_path / "before")
    # Every file was replaced once, so the order of their times is the order of the steps.
    changed = [name for name in after if after[name] != before.get(name)]
    steps = sorted(changed, key=lambda name: (output / name).stat().st_mtime_ns)
    assert len(steps) == 3 * len(removals) == 12
    for done in range(len(steps)):
        shutil.rmtree(output)
        shutil.copytree(tmp_path / "before", output)
        for name in steps[:done]:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            (output / name).write_bytes(after[name])
        again = remove_duplicates(folder, commits, row_per_candidate=False)
        assert contents(output) == after, steps[:done]
        assert sorted(map(msgspec.json.encode, again)) == sorted(map(msgspec.json.encode, removals))


def test_a_split_that_is_scored_anew_loses_the_same_groups_again(
    committed: tuple[RunFolder, list[Commit]], tmp_path: Path
) -> None:
    folder, commits = committed
    whole = (tmp_path / "out/scores/part-00000-00001.parquet").read_bytes()
    remove_duplicates(folder, commits, row_per_candidate=False)
    after = contents(tmp_path / "out")
    (tmp_path / "out/scores/part-00000-00001.parquet").write_bytes(whole)
    remove_duplicates(folder, commits, row_per_candidate=False)
    assert contents(tmp_path / "out") == after


def test_the_result_does_not_depend_on_how_many_ids_are_compared_at_a_time(
    committed: tuple[RunFolder, list[Commit]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tmp_path / "out", tmp_path / "before")
    remove_duplicates(*committed, row_per_candidate=False)
    after = contents(tmp_path / "out")
    monkeypatch.setattr(duplicates, "HASHES_AT_ONCE", 2)
    shutil.rmtree(tmp_path / "out")
    shutil.copytree(tmp_path / "before", tmp_path / "out")
    remove_duplicates(*committed, row_per_candidate=False)
    assert contents(tmp_path / "out") == after


def test_a_row_per_candidate_gives_a_dead_letter_per_candidate(tmp_path: Path) -> None:
    lines = [
        {"prompt_id": row["prompt_id"], "prompt": row["prompt"], "lang": "en", **candidate}
        for name in ("a", "b", "a")
        for row in [group(name)]
        for candidate in row["candidates"]
    ]
    write_jsonl(tmp_path / "in.jsonl", lines)
    folder, commits = commit_all(
        recipe(tmp_path / "in.jsonl", tmp_path / "out", "input.split_rows=2", "input.layout=candidates")
    )
    (removal,) = remove_duplicates(folder, commits, row_per_candidate=True)
    assert removal.dead_letters == {"duplicate_row": 2}
    assert removal.groups == 1
    raws = [msgspec.json.decode(letter["raw"]) for letter in dead_letters(tmp_path / "out")]
    assert [[candidate["candidate_id"] for candidate in raw["candidates"]] for raw in raws] == [["c0"], ["c1"]]
    assert score_table(tmp_path / "out").column("prompt_id").to_pylist() == ["a", "b"]


def test_an_input_without_duplicates_is_left_alone(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", rows(5))
    folder, commits = commit_all(recipe(tmp_path / "in.jsonl", tmp_path / "out", "input.split_rows=2"))
    before = contents(tmp_path / "out")
    assert remove_duplicates(folder, commits, row_per_candidate=False) == []
    assert contents(tmp_path / "out") == before


def test_an_input_without_groups_has_no_duplicates(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [])
    folder, commits = commit_all(recipe(tmp_path / "in.jsonl", tmp_path / "out"))
    assert remove_duplicates(folder, commits, row_per_candidate=False) == []
