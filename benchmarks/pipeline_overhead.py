"""What the pipeline itself costs: the whole job with a scorer that costs next to nothing.

Reads Parquet, scores with the `length` scorer, ranks and writes, for growing inputs with about 1 KB of text per
candidate and 8 candidates per prompt. Prints candidates/s beyond the fixed start-up (the time of a run over one
split), and peak memory (unique set size) of the driver and of the Ray workers, as ratios to the smallest size.

    python benchmarks/pipeline_overhead.py [--sizes 250000 1000000 2000000]
"""

import argparse
import random
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from watched import run_watched

CANDIDATES_PER_PROMPT = 8
CHARACTERS = 1000
WORDS = [f"word{index}" for index in range(5000)]
PROMPTS_PER_FILE = 6250


@dataclass
class Measured:
    """One run."""

    candidates: int
    seconds: float
    driver_mb: float
    workers_mb: float
    store_mb: float


def write_input(folder: Path, candidates: int) -> None:
    """Writes groups of random words; files of about 50 MB before compression."""
    draw = random.Random(0)
    text = " ".join(draw.choices(WORDS, k=200_000))
    prompts = candidates // CANDIDATES_PER_PROMPT
    for start in range(0, prompts, PROMPTS_PER_FILE):
        rows = []
        for prompt in range(start, min(prompts, start + PROMPTS_PER_FILE)):
            outputs = []
            for candidate in range(CANDIDATES_PER_PROMPT):
                size = draw.randint(CHARACTERS // 2, CHARACTERS * 3 // 2)
                offset = draw.randrange(len(text) - size)
                content = text[offset : offset + size]
                outputs.append(
                    {"candidate_id": str(candidate), "messages": [{"role": "assistant", "content": content}]}
                )
            question = [{"role": "user", "content": text[prompt : prompt + 200]}]
            rows.append({"prompt_id": f"p{prompt}", "prompt": question, "candidates": outputs})
        path = folder / f"part-{start // PROMPTS_PER_FILE:05d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1024, compression="zstd")


def measure(folder: Path, output: Path, candidates: int) -> Measured:
    """Runs the job in a process of its own and watches its memory."""
    command = [sys.executable, "-m", "polar_ray", "run", str(Path(__file__).with_name("overhead.yaml"))]
    command += [f"input.path={folder}", f"output.path={output}", "--fresh"]
    watched = run_watched(command, sizes, every_s=0.5)
    peaks = watched.peaks
    return Measured(candidates, watched.seconds, peaks["driver"], peaks["workers"], peaks["store"])


def sizes(driver: psutil.Process) -> dict[str, int]:
    """Returns the unique set size of the driver and of its Ray workers, and shared memory in use."""
    found = {"driver": driver.memory_full_info().uss, "workers": 0, "store": shared_memory_in_use()}
    for child in driver.children(recursive=True):
        try:
            if child.name().startswith("ray::") or "default_worker.py" in " ".join(child.cmdline()):
                found["workers"] += child.memory_full_info().uss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def shared_memory_in_use() -> int:
    """Bytes in use in /dev/shm, where Ray keeps its object store."""
    usage = psutil.disk_usage("/dev/shm")
    return usage.used


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[250_000, 1_000_000, 2_000_000])
    sizes = parser.parse_args().sizes
    with tempfile.TemporaryDirectory() as root:
        output = Path(root) / "out"
        results = []
        for size in [CANDIDATES_PER_PROMPT * 64, *sizes]:
            folder = Path(root) / "in"
            folder.mkdir()
            write_input(folder, size)
            results.append(measure(folder, output, size))
            shutil.rmtree(folder)
        startup, *rest = results
        first = rest[0]
        print(f"fixed start-up: {startup.seconds:.1f} s (a run over {startup.candidates} candidates)")
        print(
            f"{'candidates':>10} {'seconds':>8} {'cand/s beyond start-up':>23} {'time/size':>10} "
            f"{'driver':>8} {'workers':>8} {'store':>8}"
        )
        for result in rest:
            net = result.seconds - startup.seconds
            linear = (net / result.candidates) / ((first.seconds - startup.seconds) / first.candidates)
            print(
                f"{result.candidates:>10,} {result.seconds:>8.1f} {result.candidates / net:>23,.0f} {linear:>9.2f}x "
                f"{result.driver_mb / first.driver_mb:>7.2f}x {result.workers_mb / first.workers_mb:>7.2f}x "
                f"{result.store_mb / first.store_mb:>7.2f}x"
            )
        print(
            f"memory of the smallest: driver {first.driver_mb:,.0f} MB, workers {first.workers_mb:,.0f} MB, "
            f"object store {first.store_mb:,.0f} MB"
        )


if __name__ == "__main__":
    main()
