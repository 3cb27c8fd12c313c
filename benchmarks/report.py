"""What a report costs: the page of score tables of growing size.

Writes score tables as `benchmarks/derive.py` does (256 prompts in a part, 8 candidates per prompt) and runs
`polar-ray report` on them in a process of its own: without reading text, and on smaller tables with 1 KB of text to
each candidate. Prints candidates/s of the whole command, time and peak memory (unique set size of all processes) as
ratios to the smallest size, and the size of the page.

    python benchmarks/report.py [--sizes 500000 1000000 2000000] [--processes 2] [--text 100000 200000]
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from derive import Measured, write_run
from derive import sizes as unique_sizes
from watched import run_watched


def measure(run: Path, page: Path, candidates: int, processes: int, *, text: bool) -> Measured:
    """Runs the command in a process of its own; ``rows`` is the page's size in bytes."""
    command = [sys.executable, "-m", "polar_ray", "report", str(run), "--output", str(page)]
    command += ["--processes", str(processes), "--text" if text else "--no-text"]
    watched = run_watched(command, unique_sizes, every_s=0.2)
    return Measured(candidates, watched.seconds, watched.peaks["all"], page.stat().st_size)


def table(title: str, root: Path, sizes: list[int], processes: int, *, text: bool) -> None:
    """Measures and prints one table."""
    results = []
    for size in sizes:
        write_run(root / "run", size, text=text)
        results.append(measure(root / "run", root / "report.html", size, processes, text=text))
        shutil.rmtree(root / "run")
    print(f"\n{title}, {processes} processes")
    print(f"{'candidates':>10} {'seconds':>8} {'candidates/s':>13} {'time/size':>10} {'memory':>8} {'page':>8}")
    first = results[0]
    for result in results:
        linear = (result.seconds / result.candidates) / (first.seconds / first.candidates)
        print(
            f"{result.candidates:>10,} {result.seconds:>8.1f} {result.candidates / result.seconds:>13,.0f} "
            f"{linear:>9.2f}x {result.mb / first.mb:>7.2f}x {result.rows / 1000:>5,.0f} kB"
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
        table("report without text", Path(root), arguments.sizes, arguments.processes, text=False)
        if arguments.text:
            table("report with texts of 1 KB", Path(root), arguments.text, arguments.processes, text=True)


if __name__ == "__main__":
    main()
