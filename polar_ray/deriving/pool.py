"""Runs a function over items in several processes of this machine, results in the order of the items."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING = 2
"""Items per process that are under way or whose results wait for their turn: this bounds the memory."""


def usable_cpus() -> int:
    """Returns how many CPUs this process may use: by its affinity, and by the quota of its container (cgroup v2)."""
    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return count
    return count if quota == "max" else max(1, min(count, -(-int(quota) // int(period))))


class Workers(Protocol):
    """What runs a function over items: processes of this machine, or tasks on a cluster."""

    def over(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yields the result of each item, in order; an error of the function is raised in its place."""
        ...


@dataclass(frozen=True)
class Processes:
    """Processes of this machine; with one, everything runs in this one."""

    count: int

    def over(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yields the result of each item, in order."""
        return in_order(function, items, self.count)


def in_order(function: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Iterator[Result]:
    """Yields the result of each item, in order; an error of the function is raised in its place.

    With one process everything runs here.
    """
    if processes == 1:
        yield from map(function, items)
        return
    # Arrow's threads do not survive a fork.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
        futures: deque[Future[Result]] = deque()
        try:
            for item in items:
                futures.append(pool.submit(function, item))
                if len(futures) == WAITING * processes:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """Lets this process end when the one that started it is killed; else it would wait for work forever."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
