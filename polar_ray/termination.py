"""Being told to stop."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

TERMINATED = 128 + signal.SIGTERM
"""The exit code of a process that was told to stop, as shells have it."""


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Exits in an orderly way on SIGTERM, where the handler that is set otherwise would end the process on the spot.

    Being told again does not interrupt the end.
    """
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may set a handler.
        yield
        return
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            # A process that was forked off has nothing to put in order here.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        end_in_peace()
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is not _ignore:
            signal.signal(signal.SIGTERM, before)


def end_in_peace() -> None:
    """Ignores SIGTERM from here on, in a process that was told already."""
    # By a handler, which the processes that this one starts do not inherit.
    signal.signal(signal.SIGTERM, _ignore)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Goes on with the end."""
