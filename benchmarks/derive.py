"""What deriving costs: ranking and best-vs-worst pairs over score tables of growing size.

Writes score tables as a run leaves them (256 prompts in a part, 8 candidates per prompt), derives pairs of ids without
reading text, and prints candidates/s of the whole command (start of processes included), time and peak memory (unique
set size of all processes) as ratios to the smallest size. With `--text` the candidates carry 1 KB each and a second
table shows pairs with texts: empty and duplicate answers looked for, conversations written as JSON lines.

    python benchmarks/derive.py [--sizes 500000 1000000 2000000] [--processes 2] [--text 200000]
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from watched import run_watched

CANDIDATES_PER_PROMPT = 8
PROMPTS_PER_PART = 256
CHARACTERS = 1000
BLIND = ["export.kind=ids", "candidates={empty: keep, duplicates: keep}", "pairs={equal_texts: keep}"]
"""Overrides with which nothing looks at text."""


@dataclass
class Measured:
    """One derivation."""

    candidates: int
    seconds: float
    mb: float
    rows: int


def write_run(folder: Path, candidates: int, *, text: bool) -> None:
    """Writes a score table with random rewards, one in fifty missing."""
    draw = random.Random(0)
    words = " ".join(draw.choices([f"word{index}" for index in range(5000)], k=200_000))
    rewards = np.random.default_rng(0)
    (folder / "scores").mkdir(parents=True)
    prompts = candidates // CANDIDATES_PER_PROMPT
    for number, start in enumerate(range(0, prompts, PROMPTS_PER_PART)):
        ids = range(start, min(prompts, start + PROMPTS_PER_PART))
        count = len(ids) * CANDIDATES_PER_PROMPT
        offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * CANDIDATES_PER_PROMPT)
        at = [draw.randrange(len(words) - CHARACTERS) for _ in range(count)] if text else [0] * count
        contents = [words[place : place + CHARACTERS] if text else "" for place in at]
        missing = rewards.random(count) < 0.02
        columns = {
            "prompt_id": pa.array([f"prompt-{prompt}" for prompt in ids]),
            "prompt": messages([words[prompt : prompt + 200] for prompt in ids], "user"),
            "references": pa.array([[]] * len(ids), pa.list_(messages([], "user").type)),
            "candidates": pa.ListArray.from_arrays(
                offsets,
                pa.StructArray.from_arrays(
                    [
                        pa.array([str(place % CANDIDATES_PER_PROMPT) for place in range(count)]),
                        messages(contents, "assistant"),
                        pa.array(["model"] * count),
                        pa.nulls(count, pa.string()),
                    ],
                    names=["candidate_id", "messages", "model", "extra"],
                ),
            ),
            "reward": pa.ListArray.from_arrays(
                offsets, pa.array(rewards.normal(size=count).astype(np.float32), mask=missing)
            ),
            "status": pa.ListArray.from_arrays(
                offsets, pa.array(np.where(missing, "error", "ok").tolist(), pa.string())
            ),
        }
        pq.write_table(pa.table(columns), folder / "scores" / f"part-00000-{number:05d}.parquet", compression="zstd")
    counts = {"groups": prompts, "candidates": prompts * CANDIDATES_PER_PROMPT}
    manifest: dict[str, Any] = {"recipe": {"name": "benchmark"}, "counts": counts, "fingerprints": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def messages(contents: list[str], role: str) -> pa.ListArray:
    """Returns each text as one message."""
    values = pa.StructArray.from_arrays(
        [pa.array([role] * len(contents), pa.string()), pa.array(contents, pa.string())], names=["role", "content"]
    )
    return pa.ListArray.from_arrays(pa.array(np.arange(len(contents) + 1, dtype=np.int32)), values)


def measure(run: Path, output: Path, candidates: int, processes: int, overrides: list[str]) -> Measured:
    """Runs the command in a process of its own and watches the memory of it and its children."""
    recipe = Path(__file__).parents[1] / "pipelines" / "pairs.yaml"
    command = [sys.executable, "-m", "polar_ray", "derive", str(recipe), f"run.path={run}", f"output.path={output}"]
    command += [f"compute.processes={processes}", "--fresh", *overrides]
    watched = run_watched(command, sizes, every_s=0.2)
    rows = json.loads((output / "manifest.json").read_text())["counts"]["rows"]
    return Measured(candidates, watched.seconds, watched.peaks["all"], rows)


def sizes(parent: psutil.Process) -> dict[str, int]:
    """Returns the unique set sizes of a process and its children, summed."""
    each = [parent, *parent.children(recursive=True)]
    return {"all": sum(process.memory_full_info().uss for process in each)}


def table(title: str, root: Path, sizes: list[int], processes: int, *, text: bool) -> None:
    """Measures and prints one table."""
    results = []
    overrides = ["files.validation=0", *([] if text else BLIND)]
    for size in sizes:
        write_run(root / "run", size, text=text)
        results.append(measure(root / "run", root / "out", size, processes, overrides))
        shutil.rmtree(root / "run")
    print(f"\n{title}, {processes} processes")
    print(f"{'candidates':>10} {'pairs':>9} {'seconds':>8} {'candidates/s':>13} {'time/size':>10} {'memory':>8}")
    first = results[0]
    for result in results:
        linear = (result.seconds / result.candidates) / (first.seconds / first.candidates)
        print(
            f"{result.candidates:>10,} {result.rows:>9,} {result.seconds:>8.1f} "
            f"{result.candidates / result.seconds:>13,.0f} {linear:>9.2f}x {result.mb / first.mb:>7.2f}x"
        )
    print(f"memory of the smallest: {first.mb:,.0f} MB in all processes")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[500_000, 1_000_000, 2_000_000])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--text", type=int, nargs="*", default=[100_000, 200_000])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        table("ranking and best-vs-worst pairs, no text", Path(root), arguments.sizes, arguments.processes, text=False)
        if arguments.text:
            table("the same with texts of 1 KB", Path(root), arguments.text, arguments.processes, text=True)


if __name__ == "__main__":
    main()
