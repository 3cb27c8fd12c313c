"""Memory stays bounded, whatever a small file unpacks to."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

ROWS = 250_000
LINE = b'{"prompt_id": %d, "prompt": "' + b"many words " * 80 + b'", "candidates": ["x"]}\n'

SCRIPT = """
import resource, sys
from polar_ray.data.listing import list_input
from polar_ray.data.reading import read_source
from polar_ray.data.sources import plan_sources
from polar_ray.recipe.input import Input

config = Input(path=sys.argv[1], split_bytes=4 * 2**20, split_rows=int(sys.argv[2]))
source, = plan_sources(list_input(config), config)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = size = largest = 0
for raw in read_source(source, config):
    rows, size, largest = rows + raw.rows, size + raw.input_bytes, max(largest, len(raw.payload))
    del raw
print(rows, size, largest, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def measured(path: Path, split_rows: int = 100_000) -> list[int]:
    """Rows, their bytes, the bytes of the largest split, and the most memory that reading took, in a process alone."""
    command = [sys.executable, "-c", SCRIPT, str(path), str(split_rows)]
    return list(map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()))


def test_a_file_of_240_mb_is_read_in_a_few_splits_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl.zst"
    size = 0
    with zstandard.open(path, "wb") as stream:
        for start in range(0, ROWS, 1000):
            block = b"".join(LINE % i for i in range(start, start + 1000))
            size += stream.write(block)
    assert path.stat().st_size < 20_000_000
    rows, read, _, memory = measured(path)
    assert rows == ROWS
    assert read == size > 200_000_000
    assert memory < 80 * 2**20, "a file decompressed as a whole would take more than 230 MB"


@pytest.mark.parametrize("content", [b"x", b"\n", b" "])
def test_a_few_kilobytes_of_one_byte_take_no_more_memory_than_a_line_may_have(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bomb.jsonl.zst"
    with zstandard.open(path, "wb") as stream:
        for _ in range(600):
            stream.write(content * 2**20)
    assert path.stat().st_size < 100_000
    rows, read, _, memory = measured(path)
    assert rows == (600 * 2**20 if content == b"\n" else 1)
    assert read == 600 * 2**20
    assert memory < 280 * 2**20, "a line held as a whole would take more than 600 MB"


def test_rows_that_are_far_larger_than_a_footer_says_are_held_twice_at_most(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    prompt = pa.DictionaryArray.from_arrays(pa.array([0] * 1200, pa.int32()), pa.array(["x" * 900_000]))
    table = pa.table({"prompt": prompt, "candidates": pa.array([["a"]] * 1200)})
    pq.write_table(table, path, store_schema=False)
    assert path.stat().st_size < 100_000
    rows, read, largest, memory = measured(path, split_rows=240)
    assert rows == 1200
    assert read > 1_000_000_000
    assert 200_000_000 < largest < 240_000_000
    assert memory < 2.6 * largest, "as a table, as a stream and as bytes it would take more than five times as much"
