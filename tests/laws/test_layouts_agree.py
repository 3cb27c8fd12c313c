"""Law 6: however the same generations are laid out and stored, they give the same score table.

One run reads the rows from one plain JSONL file, a row per group. Every other layout and storage is held to it, apart
from the columns that say where a group was read.
"""

import gzip
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import write_jsonl, write_parquet
from moto.server import ThreadedMotoServer
from runs import PLACES, recipe, score_table

from polar_ray.data.scores import read_scores
from polar_ray.running.run import run

pytestmark = pytest.mark.usefixtures("embedded_ray")

TEXTS = ["12", "Beijing.", "北京。", "the capital is Beijing", "", "a\nb", "\\boxed{12}", "é" * 40]
SCORER = {"kind": "text_closeness"}


def group(number: int) -> dict[str, Any]:
    """A group with what an input may hold: several turns, no reference or one, ids and texts of many kinds."""
    turns = [{"role": "user", "content": f"question {number} – 问题"}]
    if number % 4 == 1:
        turns = [{"role": "system", "content": "Be brief."}, *turns]
    # A reference that is null in some rows, a model that is null for some candidates.
    reference = None if number % 5 == 4 else [{"role": "assistant", "content": TEXTS[number % 3]}]
    return {
        "prompt_id": f"p/{number:02}",
        "prompt": turns,
        "reference": reference,
        "candidates": [
            {
                "candidate_id": f"c{place}",
                "messages": [{"role": "assistant", "content": TEXTS[(number + place) % len(TEXTS)]}],
                "model": None if place == 2 else f"model-{place}",
                "temperature": place / 4,
            }
            for place in range(1 + number % 4)
        ],
        "lang": "zh" if number % 2 else "en",
        "turn_count": len(turns),
    }


GROUPS = [group(number) for number in range(16)]
ROWS = [
    {**{name: value for name, value in row.items() if name != "candidates"}, **candidate}
    for row in GROUPS
    for candidate in row["candidates"]
]


def packed(path: Path, data: list[dict[str, Any]]) -> Path:
    """Writes rows in the format that the path's name says."""
    if path.suffix == ".parquet":
        return write_parquet(path, data, row_group_size=3)
    if path.suffix == ".jsonl":
        return write_jsonl(path, data)
    plain = [b"".join(msgspec.json.encode(row) + b"\n" for row in half) for half in (data[: len(data) // 2], data)]
    plain[1] = plain[1][len(plain[0]) :]
    # Two members or frames, as a file has that was appended to.
    compress = gzip.compress if path.suffix == ".gz" else zstandard.ZstdCompressor().compress
    path.write_bytes(b"".join(compress(part) for part in plain))
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    folder = tmp_path_factory.mktemp("layouts")
    write_jsonl(folder / "in.jsonl", GROUPS)
    run(recipe(folder / "in.jsonl", folder / "out", scorer=SCORER))
    return score_table(folder / "out").drop_columns(PLACES)


def canonical(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a score table without places; what is in ``extra`` is compared as JSON."""
    found = table.drop_columns([name for name in PLACES if name in table.column_names]).to_pylist()
    for row in found:
        for holder in (row, *row["candidates"]):
            holder["extra"] = {} if holder["extra"] is None else msgspec.json.decode(holder["extra"])
    return found


def per_candidate(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Puts a group's further columns where a row per candidate has them: with each candidate."""
    for row in rows:
        for candidate in row["candidates"]:
            candidate["extra"] |= row["extra"]
        row["extra"] = {}
    return rows


def test_the_plain_table_holds_what_was_written(plain: pa.Table) -> None:
    assert plain.num_rows == len(GROUPS)
    for row, source in zip(canonical(plain), GROUPS, strict=True):
        assert row["prompt_id"] == source["prompt_id"]
        assert row["prompt"] == source["prompt"]
        assert row["references"] == ([] if source["reference"] is None else [source["reference"]])
        assert row["extra"] == {"lang": source["lang"], "turn_count": source["turn_count"]}
        for candidate, written in zip(row["candidates"], source["candidates"], strict=True):
            assert candidate == {
                "candidate_id": written["candidate_id"],
                "messages": written["messages"],
                "model": written["model"],
                "extra": {"temperature": written["temperature"]},
            }
    statuses = {status for row in plain.column("status").to_pylist() for status in row}
    assert statuses == {"ok", "no_reference"}


def test_every_format_and_compression_gives_the_same_table(plain: pa.Table, tmp_path: Path) -> None:
    for part, name in enumerate(("a.jsonl.gz", "b.parquet", "c.jsonl.zst", "d.jsonl")):
        packed(tmp_path / name, GROUPS[4 * part : 4 * part + 4])
    run(recipe(tmp_path, tmp_path / "out", "input.split_rows=3", scorer=SCORER))
    assert canonical(score_table(tmp_path / "out")) == canonical(plain)


def test_a_row_per_candidate_gives_the_same_table(plain: pa.Table, tmp_path: Path) -> None:
    starts = [sum(len(row["candidates"]) for row in GROUPS[:count]) for count in (0, 4, 8, 12, 16)]
    for part, name in enumerate(("a.jsonl.gz", "b.parquet", "c.jsonl.zst", "d.jsonl")):
        packed(tmp_path / name, ROWS[starts[part] : starts[part + 1]])
    run(recipe(tmp_path, tmp_path / "out", "input.layout=candidates", "input.split_rows=3", scorer=SCORER))
    assert canonical(score_table(tmp_path / "out")) == per_candidate(canonical(plain))


def test_scattered_rows_give_the_same_table_in_the_order_of_their_ids(plain: pa.Table, tmp_path: Path) -> None:
    # The candidates of a prompt lie in different files; inside a group their order is that of the files.
    packed(tmp_path / "a.jsonl.gz", [row for row in ROWS[::-1] if row["candidate_id"] == "c0"])
    packed(tmp_path / "b.parquet", [row for row in ROWS if row["candidate_id"] in ("c1", "c2")])
    packed(tmp_path / "c.jsonl", [row for row in ROWS if row["candidate_id"] == "c3"])
    overrides = ["input.layout=scattered", "input.split_rows=3", "input.split_bytes=2000"]
    run(recipe(tmp_path, tmp_path / "out", *overrides, scorer=SCORER))
    assert len(list((tmp_path / "out" / "scores").iterdir())) > 1
    table = score_table(tmp_path / "out").sort_by("prompt_id")
    assert canonical(table) == per_candidate(canonical(plain.sort_by("prompt_id")))


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    """Storage options for an S3-compatible server with an empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint, region = f"http://{host}:{port}", "us-east-1"
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="k", aws_secret_access_key="s", region_name=region
    )
    client.create_bucket(Bucket="gens")
    yield {"endpoint_url": endpoint, "key": "k", "secret": "s", "region": region}
    server.stop()


def test_an_object_store_gives_the_same_table(plain: pa.Table, tmp_path: Path, s3: dict[str, Any]) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=s3["endpoint_url"],
        aws_access_key_id="k",
        aws_secret_access_key="s",
        region_name=s3["region"],
    )
    for name, data in (("a.parquet", GROUPS[:9]), ("b.jsonl.zst", GROUPS[9:])):
        client.upload_file(str(packed(tmp_path / name, data)), "gens", f"in/{name}")
    wanted = recipe("s3://gens/in/*", "s3://gens/out", "input.split_rows=4", scorer=SCORER)
    options = {"storage_options": s3}
    wanted = wanted.model_copy(
        update={
            "input": wanted.input.model_copy(update=options),
            "output": wanted.output.model_copy(update=options),
        }
    )
    run(wanted)
    assert canonical(read_scores("s3://gens/out", storage_options=s3)) == canonical(plain)


def test_the_types_of_the_table_do_not_depend_on_what_is_in_it(plain: pa.Table, tmp_path: Path) -> None:
    # A column that is all null in one part must not have another type there: readers take the first part's.
    bare = [{"prompt": "q", "candidates": ["x"]}, {"prompt": "r", "candidates": []}]
    write_jsonl(tmp_path / "in" / "a.jsonl", bare)
    write_jsonl(tmp_path / "in" / "b.jsonl", [])
    write_jsonl(tmp_path / "in" / "c.jsonl", GROUPS[:2])
    run(recipe(tmp_path / "in", tmp_path / "out", scorer=SCORER))
    schemas = [pq.read_schema(path) for path in sorted((tmp_path / "out" / "scores").iterdir())]
    assert len(schemas) == 3
    assert all(schema.equals(schemas[0]) for schema in schemas)
    assert [field for field in schemas[0] if field.name not in PLACES] == list(plain.schema)
