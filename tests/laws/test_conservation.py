"""Law 1: rows read = rows in groups + dead letters + declared drops, and no row is in two places."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import rows
from runs import dead_letters, part_files, recipe, score_table

from polar_ray.errors import ConservationError
from polar_ray.running.run import run

pytestmark = pytest.mark.usefixtures("embedded_ray")

GROUPS = [msgspec.json.encode(row) for row in rows(12)]
NO_CANDIDATES = b'{"prompt_id": "x", "prompt": "no candidates"}'
BAD = [b"{", b"\xff\xfe", b"[1, 2]", NO_CANDIDATES, b'{"prompt_id": 1, "prompt_id": 2}']
LINES = {
    # Splits of three lines: repeats inside a split, in another split and in another file.
    "a.jsonl": [*GROUPS[:3], BAD[0], GROUPS[3], GROUPS[3], b"", GROUPS[4], GROUPS[0], BAD[1], BAD[2], BAD[3]],
    "b.jsonl": [GROUPS[5], GROUPS[1], GROUPS[6], b"  ", GROUPS[7], GROUPS[1], BAD[4]],
    "c.jsonl": [],
    "d.jsonl": [BAD[0], b"", BAD[0]],
}
DROPPED = [("a.jsonl", 6), ("b.jsonl", 3), ("d.jsonl", 1)]
IN_GROUPS = [("a.jsonl", row) for row in (0, 1, 2, 4, 7)] + [("b.jsonl", row) for row in (0, 2, 4)]
REPEATED = {("a.jsonl", 5), ("a.jsonl", 8), ("b.jsonl", 1), ("b.jsonl", 5)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conservation")
    (folder / "in").mkdir()
    for name, lines in LINES.items():
        (folder / "in" / name).write_bytes(b"".join(line + b"\n" for line in lines))
    run(recipe(folder / "in", folder / "out", "input.split_rows=3", "limits.max_dead_letters=0.9"))
    return folder / "out"


def manifest(output: Path) -> dict[str, Any]:
    return msgspec.json.decode((output / "manifest.json").read_bytes())


def places(files: list[str], numbers: list[int]) -> list[tuple[str, int]]:
    return [(Path(file).name, row) for file, row in zip(files, numbers, strict=True)]


def test_every_line_is_a_group_or_a_dead_letter_or_a_blank_line_and_only_one_of_them(finished: Path) -> None:
    table = score_table(finished)
    in_groups = places(table.column("input_file").to_pylist(), table.column("input_row").to_pylist())
    letters = dead_letters(finished)
    dead = places([letter["file"] for letter in letters], [letter["row"] for letter in letters])
    assert in_groups == IN_GROUPS
    assert Counter([*in_groups, *dead, *DROPPED]) == Counter(
        (name, row) for name, lines in LINES.items() for row in range(len(lines))
    )


def test_a_dead_letter_holds_the_bytes_of_its_line(finished: Path) -> None:
    for letter in dead_letters(finished):
        place = (Path(letter["file"]).name, letter["row"])
        line = LINES[place[0]][place[1]]
        if place in REPEATED and letter["message"].startswith("prompt_id 'p000"):
            assert msgspec.json.decode(letter["raw"])["prompt_id"] == msgspec.json.decode(line)["prompt_id"]
        else:
            assert letter["raw"] == line


def test_the_manifest_counts_what_is_there(finished: Path) -> None:
    counts, conservation = manifest(finished)["counts"], manifest(finished)["conservation"]
    assert conservation == {"rows_read": 22, "rows_in_groups": 8, "dead_letters": 11, "drops": 3, "holds": True}
    assert (counts["rows"], counts["groups"], counts["candidates"]) == (22, 8, 24)
    assert counts["statuses"] == {"": {"ok": 24}}
    assert counts["drops"] == {"blank_line": 3}
    assert counts["dead_letters"] == Counter(letter["reason"] for letter in dead_letters(finished))
    assert counts["dead_letters"]["duplicate_row"] == len(REPEATED)
    assert counts["score_table_bytes"] == sum(map(len, part_files(finished).values()))


@pytest.mark.parametrize("change", [{"rows": 4}, {"rows_in_groups": 2}, {"dead_letters": {"invalid_json": 7}}])
def test_a_run_that_loses_or_doubles_a_row_does_not_count_as_finished(
    finished: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    (output / "manifest.json").unlink()
    record = output / "_run" / "commits" / "00000-00000.json"
    record.write_bytes(msgspec.json.encode({**msgspec.json.decode(record.read_bytes()), **change}))
    again = recipe(finished.parent / "in", output, "input.split_rows=3", "limits.max_dead_letters=0.9")
    with pytest.raises(ConservationError, match="the run is not marked as finished"):
        run(again)
    assert not (output / "manifest.json").exists()


def test_a_part_that_is_gone_is_scored_again_before_a_run_counts_as_finished(finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    (output / "manifest.json").unlink()
    (output / "scores" / "part-00000-00000.parquet").unlink()
    again = recipe(finished.parent / "in", output, "input.split_rows=3", "limits.max_dead_letters=0.9")
    assert run(again).conservation["holds"]
    assert part_files(output) == part_files(finished)


def candidate_lines() -> list[bytes]:
    """Rows of four prompts; one is not JSON, one repeats a candidate, one contradicts its prompt."""
    good = [
        {"prompt_id": row["prompt_id"], "prompt": row["prompt"], **candidate}
        for row in rows(4)
        for candidate in row["candidates"]
    ]
    lines = [msgspec.json.encode(row) for row in good]
    contradiction = msgspec.json.encode({**good[0], "prompt": "another question", "candidate_id": "c9"})
    return [*lines[:2], BAD[0], lines[1], contradiction, *lines[2:7], b"", *lines[7:]]


@pytest.mark.parametrize("layout", ["candidates", "scattered"])
def test_a_row_per_candidate_is_conserved_too(tmp_path: Path, layout: str) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"".join(line + b"\n" for line in candidate_lines()))
    made = run(recipe(tmp_path / "in.jsonl", tmp_path / "out", "input.split_rows=4", f"input.layout={layout}"))
    assert made.conservation == {
        "rows_read": 16,
        "rows_in_groups": 12,
        "dead_letters": 3,
        "drops": 1,
        "holds": True,
    }
    assert (made.counts["groups"], made.counts["candidates"]) == (4, 12)
    letters = dead_letters(tmp_path / "out")
    assert sorted((letter["row"], letter["reason"]) for letter in letters) == [
        (2, "invalid_json"),
        (3, "duplicate_row"),
        (4, "conflicting_prompt"),
    ]


def test_an_input_without_a_row_is_a_finished_run_where_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"")
    made = run(recipe(tmp_path / "in.jsonl", tmp_path / "out", "limits.allow_empty=true"))
    assert made.conservation == {"rows_read": 0, "rows_in_groups": 0, "dead_letters": 0, "drops": 0, "holds": True}
    assert score_table(tmp_path / "out").num_rows == 0
