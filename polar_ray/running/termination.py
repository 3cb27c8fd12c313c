"""Being told to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Exits in an orderly way on SIGTERM, where the handler that is set otherwise would end the process on the spot."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may set a handler.
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
