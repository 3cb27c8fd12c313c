"""Runs a command in a process of its own and watches its memory, for the benchmarks."""

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil

Sizes = Callable[[psutil.Process], dict[str, int]]
"""Returns sizes in bytes, by name, of what a process and its children hold at the moment."""


@dataclass
class Watched:
    """What a command took: seconds, and the peak of each size in MB."""

    seconds: float
    peaks: dict[str, float]


def run_watched(command: Sequence[str], sizes: Sizes, every_s: float) -> Watched:
    """Runs a command to its end, looking at its sizes every so many seconds.

    Raises:
        SystemExit: The command failed.
    """
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peaks: dict[str, float] = {}
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, sizes, every_s, peaks, done))
    watcher.start()
    code = process.wait()
    seconds = time.monotonic() - started
    done.set()
    watcher.join()
    if code != 0:
        raise SystemExit(f"{' '.join(command)} failed with exit code {code}")
    return Watched(seconds, peaks)


def _watch(pid: int, sizes: Sizes, every_s: float, peaks: dict[str, float], done: threading.Event) -> None:
    while not done.wait(every_s):
        try:
            now = sizes(psutil.Process(pid))
        except psutil.Error:
            # It has just ended, or one of its children has.
            continue
        for name, size in now.items():
            peaks[name] = max(peaks.get(name, 0.0), size / 2**20)
