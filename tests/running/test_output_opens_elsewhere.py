"""The score table opens as it is in the tools that people use, one row per group, lists aligned."""

import json
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from runs import TESTS, score_table

from polar_ray import explode, open_scores, read_scores
from polar_ray.errors import NotARun, NotFinished
from polar_ray.running.manifest import Manifest

SAMPLE = TESTS.parent / "pipelines" / "sample" / "generations.jsonl"
COLUMNS = {
    "prompt_id": pa.string(),
    "prompt": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    "extra": pa.string(),
    "input_file": pa.string(),
    "input_row": pa.int64(),
    "reward": pa.list_(pa.float32()),
    "rank": pa.list_(pa.int32()),
    "status": pa.list_(pa.string()),
    "tokens": pa.list_(pa.int32()),
    "truncated": pa.list_(pa.bool_()),
    "error": pa.list_(pa.string()),
    "similarity": pa.list_(pa.float32()),
    "answer_match": pa.list_(pa.float32()),
}


@pytest.fixture
def output(finished: tuple[Path, Manifest]) -> Path:
    return finished[0]


@pytest.fixture
def pattern(output: Path) -> str:
    return str(output / "scores" / "part-*.parquet")


def source() -> list[dict[str, Any]]:
    return [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]


def sizes() -> list[int]:
    return [len(row["candidates"]) for row in source()] + [1]


def test_the_columns_have_their_documented_types(output: Path) -> None:
    schema = pq.read_schema(output / "scores" / "part-00000-00000.parquet")
    for name, type_ in COLUMNS.items():
        assert schema.field(name).type == type_, name
    assert set(schema.names) == COLUMNS.keys() | {"references", "candidates"}


def test_the_order_is_that_of_the_input(output: Path) -> None:
    table = read_scores(str(output))
    assert table.column("prompt_id").to_pylist() == [*(row["prompt_id"] for row in source()), "bare"]
    assert table.equals(score_table(output))


def test_columns_can_be_chosen_and_rows_filtered_without_reading_the_rest(output: Path) -> None:
    assert read_scores(str(output), columns=["prompt_id", "rank"]).column_names == ["prompt_id", "rank"]
    bare = open_scores(str(output)).to_table(filter=ds.field("prompt_id") == "bare")
    assert bare.column("status").to_pylist() == [["no_reference"]]
    assert bare.column("reward").to_pylist() == [[None]]
    assert bare.column("rank").to_pylist() == [[None]]


def test_pandas_reads_it(output: Path) -> None:
    frame = pd.read_parquet(output / "scores")
    assert [len(rewards) for rewards in frame["reward"]] == sizes()
    assert [len(candidates) for candidates in frame["candidates"]] == sizes()
    best = [list(ranks).index(0) for ranks in frame["rank"].iloc[:-1]]
    assert [rewards[place] == max(rewards) for rewards, place in zip(frame["reward"], best, strict=False)] == [
        True
    ] * 40


def test_polars_reads_it(pattern: str) -> None:
    frame = pl.read_parquet(pattern)
    assert frame["reward"].list.len().to_list() == sizes()
    assert frame["candidates"].list.len().to_list() == sizes()
    flat = frame.explode("candidates", "reward", "rank", "status")
    assert flat.height == sum(sizes())
    assert flat.filter(pl.col("rank") == 0).height >= 40


def test_duckdb_reads_it(pattern: str) -> None:
    query = f"""
        SELECT count(*), sum(len(candidates)), sum(len(reward)), count(DISTINCT prompt_id)
        FROM read_parquet('{pattern}')
    """
    assert duckdb.sql(query).fetchall() == [(41, sum(sizes()), sum(sizes()), 41)]
    one_each = f"""
        SELECT status, count(*) FROM (SELECT unnest(status) AS status FROM read_parquet('{pattern}'))
        GROUP BY status ORDER BY status
    """
    assert duckdb.sql(one_each).fetchall() == [("no_reference", 1), ("ok", 276)]


def test_datasets_loads_it_without_a_network(pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    loaded = datasets.load_dataset("parquet", data_files=pattern, split="train", cache_dir=str(tmp_path))
    assert [len(rewards) for rewards in loaded["reward"]] == sizes()
    assert loaded[0]["prompt_id"] == source()[0]["prompt_id"]
    assert loaded[0]["candidates"][0]["candidate_id"] == "c1"


def test_exploding_gives_a_row_per_candidate_with_its_own_reward(output: Path) -> None:
    table = read_scores(str(output))
    flat = explode(table)
    assert flat.num_rows == sum(sizes())
    expected = [
        (row["prompt_id"], candidate["candidate_id"], reward, rank)
        for row in table.to_pylist()
        for candidate, reward, rank in zip(row["candidates"], row["reward"], row["rank"], strict=True)
    ]
    columns = (flat.column(name).to_pylist() for name in ("prompt_id", "candidate_id", "reward", "rank"))
    assert list(zip(*columns, strict=True)) == expected


def test_a_reader_never_takes_half_a_run_for_a_whole_one(output: Path, tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "part-00000-00000.parquet").write_bytes(
        (output / "scores" / "part-00000-00000.parquet").read_bytes()
    )
    with pytest.raises(NotARun, match=r"it has no manifest\.json"):
        read_scores(str(tmp_path))
    (tmp_path / "_run").mkdir()
    (tmp_path / "_run" / "run.json").write_text("{}")
    with pytest.raises(NotFinished, match=r"run the recipe again to finish it$"):
        read_scores(str(tmp_path))
    assert read_scores(str(tmp_path), partial=True).num_rows == 10
