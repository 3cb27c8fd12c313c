"""A scorer added to a finished score table: only it scores, and what was there stays as it is."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import rows, write_jsonl, write_parquet
from runs import part_files, recipe, score_table

from polar_ray.errors import (
    InputError,
    NotARun,
    NotFinished,
    OutputError,
    RecipeChanged,
    RecipeError,
)
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.manifest import Manifest
from polar_ray.running.plan import plan
from polar_ray.running.run import run
from polar_ray.scorers.length import LengthScorer

pytestmark = pytest.mark.usefixtures("embedded_ray")

GROUPS = 14
LENGTH = {"length": {"kind": "length"}}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with rewards, nulls, extras, extra columns, dead letters, and a part without any group."""
    folder = tmp_path_factory.mktemp("added")
    data = rows(GROUPS)
    data[3]["reference"] = None
    data[4]["candidates"][1]["temperature"] = 0.7
    # The second file holds nothing but a prompt that the first has, so its part is empty in the end.
    write_jsonl(folder / "in" / "a.jsonl", [*data, {"prompt_id": 5}])
    write_parquet(folder / "in" / "b.parquet", [data[0]])
    run(recipe(folder / "in", folder / "out", "input.split_rows=4", scorer={"kind": "text_closeness"}))
    # What it was made from is not needed again.
    shutil.rmtree(folder / "in")
    return folder / "out"


def added(parent: Path, output: Path, *overrides: str, **parts: Any) -> Recipe:
    wanted = {"scorers": LENGTH, **parts}
    return recipe(parent, output, "input.format=scores", "input.scorer_name=close", *overrides, **wanted)


@pytest.fixture(scope="module")
def child(parent: Path) -> tuple[Path, Manifest]:
    output = parent.parent / "more"
    return output, run(added(parent, output, "input.split_rows=3"))


def bits(column: pa.ChunkedArray) -> bytes:
    """All bytes of a column's values, validity and offsets included."""
    sink = pa.BufferOutputStream()
    table = pa.table({"column": column.combine_chunks()})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def test_every_column_that_was_there_is_the_same_byte_for_byte(parent: Path, child: tuple[Path, Manifest]) -> None:
    before, after = score_table(parent), score_table(child[0])
    scores = before.column_names[7:]
    assert scores == [
        *("reward", "rank", "status", "tokens", "truncated", "error"),
        *("similarity", "answer_match"),
    ]
    names = [*before.column_names[:7], *(f"{name}_close" for name in scores)]
    assert after.column_names[: len(names)] == names
    for old, new in zip(before.column_names, names, strict=True):
        assert before.schema.field(old).type == after.schema.field(new).type
        assert bits(before.column(old)) == bits(after.column(new)), old


def test_the_new_scorer_gives_what_it_gives_in_a_run_of_its_own(child: tuple[Path, Manifest]) -> None:
    table = score_table(child[0])
    assert table.column("reward_length").to_pylist() == [
        [float(10 * group + candidate) for candidate in range(3)] for group in range(GROUPS)
    ]
    assert table.column("rank_length").to_pylist() == [[2, 1, 0]] * GROUPS
    assert table.column("status_length").to_pylist() == [["ok"] * 3] * GROUPS


def test_only_the_new_scorer_scores(parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = run(added(parent, tmp_path / "out"))
    assert [name for name in manifest.stage_seconds if name.startswith("score:")] == ["score:length"]


def test_the_manifest_keeps_the_old_fingerprints_and_names_the_parent(
    parent: Path, child: tuple[Path, Manifest]
) -> None:
    before, after = json.loads((parent / "manifest.json").read_text()), child[1]
    assert after.fingerprints["close"] == before["fingerprints"][""]
    assert after.fingerprints["length"] == LengthScorer.fingerprint(recipe("a", "b").scorer)  # type: ignore[arg-type]
    assert list(after.fingerprints) == ["close", "length"]
    assert after.parent is not None
    assert after.parent.path == str(parent)
    assert after.parent.manifest_sha256 == hashlib.sha256((parent / "manifest.json").read_bytes()).hexdigest()
    assert (after.parent.name, after.parent.scorers) == ("run", ["close"])
    assert after.counts["statuses"] == {
        "close": before["counts"]["statuses"][""],
        "length": {"ok": 3 * GROUPS},
    }
    assert after.conservation["rows_read"] == after.counts["groups"] == GROUPS


def test_a_part_without_groups_has_the_columns_of_the_others(child: tuple[Path, Manifest]) -> None:
    schemas = [pq.read_schema(path) for path in sorted((child[0] / "scores").iterdir())]
    assert len(schemas) > 3
    for schema in schemas[1:]:
        assert schema.equals(schemas[0])


def test_a_third_scorer_can_follow(child: tuple[Path, Manifest], tmp_path: Path) -> None:
    again = {"other": {"kind": "custom", "target": "faulty:Raises"}}
    manifest = run(recipe(child[0], tmp_path / "out", "input.format=scores", scorers=again))
    assert list(manifest.fingerprints) == ["close", "length", "other"]
    before, after = score_table(child[0]), score_table(tmp_path / "out")
    assert after.select(before.column_names).equals(before)
    assert after.column("reward_other").equals(before.column("reward_length"))


def test_it_goes_on_where_it_was_stopped(parent: Path, child: tuple[Path, Manifest], tmp_path: Path) -> None:
    shutil.copytree(child[0], tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    commits = sorted((tmp_path / "out" / "_run" / "commits").iterdir())
    for path in commits[1::2]:
        path.unlink()
        (tmp_path / "out" / "scores" / f"part-{path.stem}.parquet").unlink()
    manifest = run(added(parent, tmp_path / "out", "input.split_rows=3"))
    assert manifest.resumed_splits == len(commits[::2])
    assert part_files(tmp_path / "out") == part_files(child[0])
    assert manifest.counts == child[1].counts


def test_another_parent_does_not_go_on_in_the_same_folder(
    parent: Path, child: tuple[Path, Manifest], tmp_path: Path
) -> None:
    shutil.copytree(parent, tmp_path / "other")
    with pytest.raises(RecipeChanged):
        run(added(tmp_path / "other", child[0], "input.split_rows=3"))


def test_the_plan_shows_the_table_that_is_added_to(parent: Path, tmp_path: Path) -> None:
    planned = plan(added(parent, tmp_path / "out"))
    assert planned.sample_dead_letters == 0
    assert planned.sample_candidates == 3 * planned.sample_groups > 0


@pytest.mark.parametrize(
    ("overrides", "parts", "says"),
    [
        (["input.scorer_name=null"], {}, "the scorer of .* has no name.* give it one with input.scorer_name"),
        (["input.scorer_name=length"], {}, "already has scores of 'length', which are not made again"),
        ([], {"scorer": {"kind": "length"}, "scorers": {}}, "to add to a score table a scorer needs a name"),
        (["input.layout=candidates"], {}, "a score table has a layout and names of its own"),
        (["input.path=[a, b]"], {}, "path is the output folder of one run"),
        (["input.format=auto"], {}, "input: scorer_name is for the scorer of a score table"),
    ],
)
def test_what_cannot_be_added_is_refused_before_anything_is_scored(
    parent: Path, tmp_path: Path, overrides: list[str], parts: dict[str, Any], says: str
) -> None:
    with pytest.raises(RecipeError, match=says):
        run(added(parent, tmp_path / "out", *overrides, **parts))
    assert not (tmp_path / "out").exists()


def test_a_name_is_refused_where_the_scorers_have_theirs(child: tuple[Path, Manifest], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"input\.scorer_name is for a scorer without a name; .*: close, length"):
        run(added(child[0], tmp_path / "out", scorers={"other": {"kind": "length"}}))


def test_a_run_as_plain_input_is_refused_with_the_way_to_add_to_it(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is the output folder of a run.*set input\.format=scores"):
        run(recipe(parent, tmp_path / "out"))


def test_a_run_that_has_not_finished_or_is_none_is_refused(parent: Path, tmp_path: Path) -> None:
    shutil.copytree(parent, tmp_path / "half")
    (tmp_path / "half" / "manifest.json").unlink()
    with pytest.raises(NotFinished):
        run(added(tmp_path / "half", tmp_path / "out"))
    with pytest.raises(NotARun):
        run(added(tmp_path, tmp_path / "out"))


def test_a_part_that_is_missing_or_damaged_stops_the_run(parent: Path, tmp_path: Path) -> None:
    for name in ("missing", "damaged", "shifted"):
        shutil.copytree(parent, tmp_path / name)
    part = sorted((tmp_path / "missing" / "scores").iterdir())[1]
    part.unlink()
    with pytest.raises(OutputError, match=f"{part.name} is gone, and the scores of its split with it"):
        run(added(tmp_path / "missing", tmp_path / "a"))
    broken = tmp_path / "damaged" / "scores" / part.name
    broken.write_bytes(broken.read_bytes()[:-200])
    with pytest.raises(OutputError, match=f"{part.name} has .* bytes where .* were written"):
        run(added(tmp_path / "damaged", tmp_path / "b"))
    broken.write_bytes(broken.read_bytes() + bytes(200))
    with pytest.raises(InputError, match="is a part of a score table, and damaged"):
        run(added(tmp_path / "damaged", tmp_path / "b"))
    shifted = tmp_path / "shifted" / "scores" / part.name
    table, before = pq.read_table(shifted), shifted.stat().st_size
    rewards = table["reward"].to_pylist()
    rewards[0] = [*rewards[0], 1.0]
    place = table.column_names.index("reward")
    pq.write_table(table.set_column(place, "reward", pa.array(rewards, pa.list_(pa.float32()))), shifted)
    manifest = json.loads((tmp_path / "shifted" / "manifest.json").read_text())
    # As if it had been written so.
    manifest["counts"]["score_table_bytes"] += shifted.stat().st_size - before
    (tmp_path / "shifted" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="reward_close has not one value per candidate"):
        run(added(tmp_path / "shifted", tmp_path / "c"))
