"""Memory stays bounded for one huge compressed file."""

import subprocess
import sys
from pathlib import Path

import zstandard

ROWS = 250_000
LINE = b'{"prompt_id": %d, "prompt": "' + b"many words " * 80 + b'", "candidates": ["x"]}\n'

SCRIPT = """
import resource, sys
from polar_ray.data.listing import list_input
from polar_ray.data.reading import read_source
from polar_ray.data.sources import plan_sources
from polar_ray.recipe.input import Input

config = Input(path=sys.argv[1], split_bytes=4 * 2**20, split_rows=100_000)
source, = plan_sources(list_input(config), config)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = size = 0
for raw in read_source(source, config):
    rows, size = rows + raw.rows, size + len(raw.payload)
print(rows, size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_file_of_240_mb_is_read_in_a_few_splits_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl.zst"
    size = 0
    with zstandard.open(path, "wb") as stream:
        for start in range(0, ROWS, 1000):
            block = b"".join(LINE % i for i in range(start, start + 1000))
            size += stream.write(block)
    assert path.stat().st_size < 20_000_000
    out = subprocess.run([sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=True).stdout
    rows, read, kib = map(int, out.split())
    assert rows == ROWS
    assert read == size > 200_000_000
    assert kib < 80 * 1024, "a file decompressed as a whole would take more than 230 MB"
