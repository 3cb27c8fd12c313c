"""What a task's process says of a storage that it waits for, on its way to whoever watches the run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from polar_ray.data import patience


class _ToDriver(logging.Handler):
    def __init__(self, attempts: Any) -> None:
        super().__init__(logging.WARNING)
        self._attempts = attempts

    def emit(self, record: logging.LogRecord) -> None:
        self._attempts.say.remote(record.getMessage())


@contextmanager
def overheard(attempts: Any) -> Iterator[None]:
    """Passes on what is said meanwhile in this process.

    Args:
        attempts: The run's AttemptLog actor, which the driver asks; None where there is none.
    """
    if attempts is None:
        yield
        return
    handler = _ToDriver(attempts)
    patience.logger.addHandler(handler)
    try:
        yield
    finally:
        patience.logger.removeHandler(handler)
