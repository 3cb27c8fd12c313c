"""Whenever it is told to stop, a command ends with one exit code and one sentence."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from polar_ray.termination import exit_on_sigterm

SAID = "polar-ray: terminated; run the same command again to go on\n"

ENDS = {
    # As any command, before there is a Ray.
    "early": "told()",
    # Ray sets a handler of its own, which exits with the signal's number.
    "with Ray's handler": "signal.signal(SIGTERM, lambda number, frame: sys.exit(number)); told()",
    "again while it ends": """
try:
    told()
finally:
    told()
    told()
""",
    "again after Ray's handler": """
atexit.register(told)
signal.signal(SIGTERM, lambda number, frame: sys.exit(number))
told()
""",
    "in a part that is told by itself": """
signal.signal(SIGTERM, lambda number, frame: sys.exit(number))
with contextlib.ExitStack() as stack:
    stack.callback(told)
    with exit_on_sigterm():
        told()
""",
}

DRIVER = """
import atexit, contextlib, os, signal, sys
from signal import SIGTERM
from polar_ray import cli
from polar_ray.termination import exit_on_sigterm

def told():
    os.kill(os.getpid(), SIGTERM)

def app():
    exec(sys.argv[1], globals())
    print("went on")

cli.app = app
cli.main()
"""


@pytest.mark.parametrize("when", ENDS)
def test_a_command_ends_with_one_code_and_one_sentence_whenever_it_is_told(when: str) -> None:
    done = subprocess.run([sys.executable, "-c", DRIVER, ENDS[when]], capture_output=True, text=True, timeout=120)
    assert done.stderr == SAID
    assert done.stdout == ""
    assert done.returncode == 128 + signal.SIGTERM


@pytest.fixture
def before() -> Iterator[object]:
    """The handler of this process, which is put back."""
    handler = signal.getsignal(signal.SIGTERM)
    yield handler
    signal.signal(signal.SIGTERM, handler)


def test_what_was_not_told_to_stop_has_its_handler_back(before: object) -> None:
    with exit_on_sigterm():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_process_that_was_forked_off_ends_as_if_there_were_no_handler(tmp_path: Path) -> None:
    code = """
import os, signal
from polar_ray.termination import exit_on_sigterm
with exit_on_sigterm():
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (done.stdout, done.stderr) == (f"{signal.SIGTERM.value}\n", "")
