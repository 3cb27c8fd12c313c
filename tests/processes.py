"""Processes that tests start, watch and kill, and what they left in a run's folder."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

COMMAND = """
import sys
from polar_ray.cli import main
sys.argv = ["polar-ray", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    code = end.code or 0
print("LOADED", *[name for name in ("ray", "torch", "transformers") if name in sys.modules])
sys.exit(code)
"""
"""A program that runs the command line with its arguments and tells which of the heavy packages were loaded."""
NOBODY = 65534
"""The user who owns nothing."""
PATIENCE_S = 120.0
"""Seconds after which a test gives up waiting; nothing here takes a tenth of that on a quiet machine."""


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def wait_for(what: str, condition: Callable[[], bool], timeout_s: float = PATIENCE_S, every_s: float = 0.02) -> None:
    """Waits until a condition holds.

    Raises:
        TimeoutError: It does not hold in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(every_s)


class Command:
    """A running command whose output goes to a file."""

    def __init__(self, popen: "subprocess.Popen[bytes]", log: Path) -> None:
        self.popen = popen
        self._log = log
        self._family = [psutil.Process(popen.pid)]

    @property
    def output(self) -> str:
        """Returns standard output and error so far."""
        return self._log.read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """Returns the process and all that it has started, directly or not; call it before the process ends."""
        me = self._family[0]
        self._family = [me, *me.children(recursive=True)]
        return self._family

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Returns the exit code."""
        return self.popen.wait(timeout_s)

    def end(self) -> None:
        """Kills what is left of the family."""
        if self.popen.poll() is None:
            self.family()
        kill(self._family)
        self.popen.wait()


@contextmanager
def command(arguments: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[Command]:
    """Starts a command with ``env`` on top of the environment; in the end nothing of its family is left."""
    with log.open("wb") as output:
        popen = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **(env or {})}
        )
    running = Command(popen, log)
    try:
        yield running
    finally:
        running.end()


def polar_ray(*arguments: str) -> list[str]:
    """Returns the command line of ``polar-ray``."""
    return [sys.executable, "-m", "polar_ray", *arguments]


def kill(processes: list[psutil.Process]) -> None:
    """Kills processes with SIGKILL; one that has ended is no error."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def gone(processes: list[psutil.Process]) -> None:
    """Waits until processes have ended."""
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    assert not alive, f"still running: {alive}"


def with_title(title: str, processes: list[psutil.Process]) -> list[psutil.Process]:
    """Returns the processes whose title, as Ray sets it, starts so."""
    found = []
    for process in processes:
        try:
            words = process.cmdline()
        except psutil.Error:
            # It ended while it was looked at.
            continue
        if words and words[0].startswith(title):
            found.append(process)
    return found


def workers() -> list[psutil.Process]:
    """Returns all that this process has started, Ray's workers included."""
    return psutil.Process().children(recursive=True)


def commits(folder: Path) -> int:
    """Returns how many splits are committed in a run's folder."""
    return len(list((folder / "_run" / "commits").glob("*.json")))


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the files of the score table and of the dead letters in a run's folder, by name."""
    files = [path for name in ("scores", "dead_letters") for path in (folder / name).glob("*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if not path.name.startswith(".tmp-")}
