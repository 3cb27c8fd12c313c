"""Deriving from a run's folder into a dataset's folder."""

import hashlib
import json
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from score_tables import assistant, group, score_table, user, write_run

from polar_ray.deriving.derive import derive
from polar_ray.deriving.derived_folder import DerivedManifest
from polar_ray.deriving.units import UnitReader
from polar_ray.errors import ConservationError, NotFinished, OutputError, RecipeChanged
from polar_ray.recipe.derive import DeriveRecipe

RUNNABLE: dict[str, dict[str, Any]] = {
    "pairs": {"pairs": {"strategy": {"kind": "best_vs_random"}}, "export": {"kind": "trl_preference"}},
    "best_of_n": {"best_of_n": {"top_k": 2, "min_quantile": 0.3}, "export": {"kind": "trl_sft"}},
    "labels": {"labels": {"good": 0.5, "bad": -0.5}, "export": {"kind": "trl_unpaired"}},
}


def table(groups: int = 60, seed: int = 0) -> pa.Table:
    """Groups of none to nine candidates; some without rewards, with equal rewards or texts, truncated or empty."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(groups):
        size = int(draw.integers(0, 10))
        rewards = [None if draw.random() < 0.15 else round(float(draw.normal()), 1) for _ in range(size)]
        texts = [
            " " if draw.random() < 0.1 else f"answer {draw.integers(0, 8)}" * int(draw.integers(1, 9)) for _ in rewards
        ]
        status = ["error" if reward is None else "truncated" if draw.random() < 0.1 else "ok" for reward in rewards]
        # Some prompts have the same text.
        rows.append(group(f"p{number}", rewards, texts, status=status, prompt=[user(f"question {number // 2}")]))
    return score_table(rows)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", table())


def recipe(run: Path | str, output: Path | str, *overrides: str, **parts: Any) -> DeriveRecipe:
    data = {"run": {"path": str(run)}, "output": {"path": str(output)}, "compute": {"processes": 1}, **parts}
    return DeriveRecipe.of(data, list(overrides))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def jsonl(folder: Path, side: str = "train") -> list[dict[str, Any]]:
    files = sorted((folder / "data" / side).glob("*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("task", RUNNABLE)
@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_the_same_table_recipe_and_seed_give_the_same_bytes_on_any_number_of_processes(
    run: Path, tmp_path: Path, task: str, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polar_ray.deriving.units.UNIT_PARTS", 2)
    files = {"format": format, "shard_rows": 11, "validation": 0.3}
    one = recipe(run, tmp_path / "one", **RUNNABLE[task], files=files)
    two = recipe(run, tmp_path / "two", "compute.processes=2", **RUNNABLE[task], files=files)
    derive(one)
    derive(two)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) > 6


@pytest.mark.parametrize("task", RUNNABLE)
def test_how_the_table_is_cut_into_units_changes_no_row(
    run: Path, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = derive(recipe(run, tmp_path / "whole", **RUNNABLE[task]))
    monkeypatch.setattr("polar_ray.deriving.units.UNIT_PARTS", 1)
    cut = derive(recipe(run, tmp_path / "cut", **RUNNABLE[task]))
    assert jsonl(tmp_path / "cut") == jsonl(tmp_path / "whole")
    assert (cut.ledger, cut.removed_candidates, cut.removed_pairs) == (
        whole.ledger,
        whole.removed_candidates,
        whole.removed_pairs,
    )


@pytest.mark.parametrize("task", RUNNABLE)
def test_every_prompt_has_rows_or_is_listed_with_its_reason(run: Path, tmp_path: Path, task: str) -> None:
    manifest = derive(recipe(run, tmp_path / "out", **RUNNABLE[task]))
    ledger = pq.read_table(tmp_path / "out" / "ledger").to_pylist()
    with_rows = {row["prompt_id"] for row in jsonl(tmp_path / "out")}
    listed = [row["prompt_id"] for row in ledger]
    assert sorted([*with_rows, *listed]) == sorted(f"p{i}" for i in range(60))
    assert sum(manifest.ledger.values()) == len(listed)
    assert manifest.conservation == {
        "prompts": 60,
        "with_rows": len(with_rows),
        "with_a_reason": len(listed),
        "holds": True,
    }
    sizes = {row["prompt_id"]: len(row["reward"]) for row in table().to_pylist()}
    assert {row["prompt_id"]: row["candidates"] for row in ledger} == {name: sizes[name] for name in listed}


def test_a_pair_holds_what_the_table_has(tmp_path: Path) -> None:
    rows = [
        group("p", [0.25, 1.0, None], ["b", "a", "c"]),
        group("q", [1.0]),
        group("r", [0.5, 2.0], ["wrong", "right"], prompt=[user("x"), assistant("y"), user("z")]),
    ]
    run = write_run(tmp_path / "run", score_table(rows))
    manifest = derive(recipe(run, tmp_path / "out", pairs={}, export={"kind": "trl_preference"}))
    assert jsonl(tmp_path / "out") == [
        {
            "prompt": [user("question p")],
            "chosen": [assistant("a")],
            "rejected": [assistant("b")],
            "margin": 0.75,
            "prompt_id": "p",
            "chosen_id": "c1",
            "rejected_id": "c0",
            "chosen_model": "m1",
            "rejected_model": "m0",
            "chosen_reward": 1.0,
            "rejected_reward": 0.25,
        },
        {
            "prompt": [user("x"), assistant("y"), user("z")],
            "chosen": [assistant("right")],
            "rejected": [assistant("wrong")],
            "margin": 1.5,
            "prompt_id": "r",
            "chosen_id": "c1",
            "rejected_id": "c0",
            "chosen_model": "m1",
            "rejected_model": "m0",
            "chosen_reward": 2.0,
            "rejected_reward": 0.5,
        },
    ]
    assert manifest.ledger == {"too_few_candidates": 1}
    assert manifest.counts == {
        "prompts": 3,
        "candidates": 6,
        "prompts_with_rows": 2,
        "rows": 2,
        "train": 2,
        "validation": 0,
    }


def test_text_is_read_only_where_something_looks_at_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: set[str] = set()
    original = UnitReader.read

    def watched(self: UnitReader, columns: Any) -> pa.Table:
        read.update(columns)
        return original(self, columns)

    monkeypatch.setattr(UnitReader, "read", watched)
    blind = {"candidates": {"empty": "keep", "duplicates": "keep"}, "pairs": {"equal_texts": "keep"}}
    derive(recipe(run, tmp_path / "ids", **blind))
    ids = {"candidates.list.element.candidate_id", "candidates.list.element.model"}
    assert read == {"prompt_id", "reward", "status", *ids}
    derive(recipe(run, tmp_path / "texts", **blind, export={"kind": "trl_preference"}))
    assert read == {"prompt_id", "reward", "status", *ids, "prompt", "candidates.list.element.messages"}


def test_no_prompt_is_on_both_sides_and_a_side_does_not_change(run: Path, tmp_path: Path) -> None:
    sides: dict[float, set[str]] = {}
    for share in (0.2, 0.5):
        derive(recipe(run, tmp_path / str(share), **RUNNABLE["pairs"], files={"validation": share}))
        train, validation = (
            {row["prompt"][0]["content"] for row in jsonl(tmp_path / str(share), side)}
            for side in ("train", "validation")
        )
        assert train
        assert validation
        assert not train & validation
        sides[share] = validation
    assert sides[0.2] < sides[0.5]


def test_files_are_cut_at_the_number_of_rows_and_described_in_the_manifest(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = derive(recipe(run, out, **RUNNABLE["best_of_n"], files={"shard_rows": 20}))
    data = [file for file in manifest.files if file.path.startswith("data/")]
    assert [file.path for file in data] == [f"data/train/part-{i:05d}.jsonl" for i in range(len(data))]
    assert len(data) > 2
    assert {file.rows for file in data[:-1]} == {20}
    for file in manifest.files:
        content = (out / file.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.bytes, file.sha256)


def test_the_manifest_names_the_run_that_it_came_from(run: Path, tmp_path: Path) -> None:
    manifest = derive(recipe(run, tmp_path / "out", **RUNNABLE["pairs"]))
    assert manifest.parent.path == str(run)
    assert manifest.parent.name == "by-hand"
    assert manifest.parent.manifest_sha256 == hashlib.sha256((run / "manifest.json").read_bytes()).hexdigest()
    assert manifest.recipe["pairs"]["strategy"] == {"kind": "best_vs_random"}


def test_deriving_again_does_nothing_and_another_recipe_is_refused(run: Path, tmp_path: Path) -> None:
    first = derive(recipe(run, tmp_path / "out", **RUNNABLE["pairs"]))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert derive(recipe(run, tmp_path / "out", **RUNNABLE["pairs"])) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    with pytest.raises(RecipeChanged, match="--fresh"):
        derive(recipe(run, tmp_path / "out", "seed=1", **RUNNABLE["pairs"]))
    second = derive(recipe(run, tmp_path / "out", "seed=1", **RUNNABLE["pairs"]), fresh=True)
    assert second.recipe["seed"] == 1


def test_what_an_interrupted_derivation_left_is_replaced(run: Path, tmp_path: Path) -> None:
    wanted = recipe(run, tmp_path / "whole", **RUNNABLE["pairs"])
    derive(wanted)
    out = tmp_path / "out"
    derive(recipe(run, out, **RUNNABLE["best_of_n"], files={"shard_rows": 5}))
    (out / "manifest.json").unlink()
    derive(recipe(run, out, **RUNNABLE["pairs"]))
    assert contents(out) == contents(tmp_path / "whole")


def test_fresh_deletes_the_dataset_and_nothing_else(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    derive(recipe(run, out, **RUNNABLE["best_of_n"], files={"shard_rows": 5}))
    mine = {"data/mine.csv", "data/train/part-00000.jsonl.mine", "ledger/notes.txt", "_derive/mine", "models/a.bin"}
    for name in mine:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("mine")
    derive(recipe(run, out, **RUNNABLE["pairs"]), fresh=True)
    derive(recipe(run, tmp_path / "whole", **RUNNABLE["pairs"]))
    assert contents(out) == contents(tmp_path / "whole") | dict.fromkeys(mine, b"mine")


def test_nothing_is_deleted_behind_a_link(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    derive(recipe(run, out, **RUNNABLE["pairs"]))
    (out / "ledger").rename(tmp_path / "elsewhere")
    (out / "ledger").symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"ledger is a link to .*elsewhere, and nothing is deleted behind a link"):
        derive(recipe(run, out, "seed=1", **RUNNABLE["pairs"]), fresh=True)
    assert contents(tmp_path) == before


def test_a_marker_that_is_none_makes_no_dataset(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("_derive/derive.json", "manifest.json", "data/train/part-00000.jsonl"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("{}")
    with pytest.raises(OutputError, match="no derived dataset"):
        derive(recipe(run, out, **RUNNABLE["pairs"]), fresh=True)
    assert set(contents(out)) == {"_derive/derive.json", "manifest.json", "data/train/part-00000.jsonl"}


def test_an_error_half_way_leaves_no_half_a_file_and_no_manifest(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polar_ray.deriving.units.UNIT_PARTS", 1)
    parts = sorted((run / "scores").iterdir())
    parts[-1].write_bytes(b"no parquet")
    with pytest.raises(OutputError, match=rf"{parts[-1].name} cannot be read as Parquet"):
        derive(recipe(run, tmp_path / "out", **RUNNABLE["pairs"]))
    assert set(contents(tmp_path / "out")) == {"_derive/derive.json"}


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_holds_something_else_is_not_touched(run: Path, tmp_path: Path, fresh: bool) -> None:
    before = contents(run)
    with pytest.raises(OutputError, match="no derived dataset"):
        derive(recipe(run, run, **RUNNABLE["pairs"]), fresh=fresh)
    assert contents(run) == before


def test_a_run_that_has_not_finished_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "_run").mkdir()
    (run / "_run" / "run.json").write_text("{}")
    (run / "manifest.json").unlink()
    with pytest.raises(NotFinished):
        derive(recipe(run, tmp_path / "out", **RUNNABLE["pairs"]))


def test_a_table_with_a_part_missing_is_not_derived_from_in_silence(run: Path, tmp_path: Path) -> None:
    sorted((run / "scores").iterdir())[2].unlink()
    with pytest.raises(ConservationError, match="the run's manifest has 60, read 53"):
        derive(recipe(run, tmp_path / "out", **RUNNABLE["pairs"]))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_lowest_reward_by_quantile_is_that_of_the_whole_table(run: Path, tmp_path: Path) -> None:
    manifest = derive(recipe(run, tmp_path / "out", best_of_n={"top_k": None, "min_quantile": 0.8}))
    usable = [
        reward
        for row in table().to_pylist()
        for reward, status in zip(row["reward"], row["status"], strict=True)
        if status == "ok"
    ]
    expected = np.quantile(np.float32(usable), 0.8, method="inverted_cdf")
    assert manifest.lowest_reward == expected
    assert min(row["reward"] for row in jsonl(tmp_path / "out")) >= expected


def test_a_table_without_groups_gives_a_dataset_without_rows(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", table(0))
    for task in RUNNABLE:
        manifest = derive(recipe(run, tmp_path / task, **RUNNABLE[task]))
        assert manifest.counts["rows"] == manifest.counts["prompts"] == 0


def test_five_hundred_candidates_stream_through(tmp_path: Path) -> None:
    draw = np.random.default_rng(4)
    rows = [group(f"p{i}", draw.normal(size=500).astype(np.float32).tolist()) for i in range(4)]
    run = write_run(tmp_path / "run", score_table(rows), part_rows=1)
    pairs = {"strategy": {"kind": "all_pairs"}, "per_prompt": 50, "prefer": "random"}
    manifest = derive(recipe(run, tmp_path / "out", pairs=pairs))
    assert manifest.counts["rows"] == 200
    assert manifest.removed_pairs == {"per_prompt": 4 * (500 * 499 // 2 - 50)}


def test_the_result_is_the_same_in_an_object_store(run: Path, tmp_path: Path, bucket: str) -> None:
    s3 = boto3.client("s3", endpoint_url=None)
    for name, content in contents(run).items():
        s3.put_object(Bucket=bucket, Key=f"run/{name}", Body=content)
    parts = {**RUNNABLE["pairs"], "files": {"format": "parquet", "validation": 0.2}}
    local = derive(recipe(run, tmp_path / "out", **parts))
    remote: DerivedManifest = derive(recipe(f"s3://{bucket}/run", f"s3://{bucket}/out", **parts))
    assert (remote.files, remote.ledger, remote.counts) == (local.files, local.ledger, local.counts)
    for file in local.files:
        body = s3.get_object(Bucket=bucket, Key=f"out/{file.path}")["Body"].read()
        assert body == (tmp_path / "out" / file.path).read_bytes()


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_dataset_without_rows_has_a_file_and_columns(run: Path, tmp_path: Path, format: str) -> None:
    from datasets import load_dataset

    full = derive(recipe(run, tmp_path / "full", pairs={}, files={"format": "parquet"}))
    columns = pq.read_schema(tmp_path / "full" / full.files[0].path).names
    out = tmp_path / "out"
    manifest = derive(recipe(run, out, pairs={"min_margin": 1e6}, files={"format": format}))
    assert manifest.counts["rows"] == 0
    assert [(file.path, file.rows) for file in manifest.files if file.path.startswith("data")] == [
        (f"data/train/part-00000.{format}", 0)
    ]
    # ``datasets`` reads a split without rows as a stream only.
    opened = load_dataset(str(out), streaming=True, split="train", cache_dir=str(tmp_path / "cache"))
    assert opened.column_names == columns
    assert list(opened) == []
