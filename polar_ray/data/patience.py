"""Patience: a storage that is away is asked again for as long as the recipe says; what is wrong for good is not."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from polar_ray.data.faults import is_away, is_denied, is_fault, words
from polar_ray.errors import PolarRayError, StorageAway, StorageDenied, StorageFault
from polar_ray.recipe.run import STORAGE_WAIT_S
from polar_ray.recipe.secrets import hidden
from polar_ray.terminal import printable

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

FIRST_S, LONGEST_S = 0.5, 15.0
"""Seconds between two tries: at random up to the first, then up to twice as many each time, up to the longest."""


class _Outages:
    """What this process waits for now: many threads may wait for one storage, and one of them says so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}

    def begins(self, place: str, why: str, wait_s: float) -> None:
        with self._lock:
            if place in self._since:
                return
            self._since[place] = time.monotonic()
        logger.warning(
            "%s does not answer as it should (%s); waiting for it, up to %g s (limits.storage_wait_s)",
            printable(place),
            printable(why),
            wait_s,
        )

    def ends(self, place: str, *, well: bool) -> None:
        with self._lock:
            since = self._since.pop(place, None)
        if since is not None and well:
            logger.warning("%s is back after %.0f s", printable(place), time.monotonic() - since)


_outages = _Outages()


@dataclass(frozen=True)
class Patience:
    """How long a storage is waited for.

    Attributes:
        place: The storage, for a person: the URL of its folder.
        wait_s: Seconds in which it may come back; 0 asks once.
        secrets: What no message about it may repeat.
    """

    place: str
    wait_s: float = STORAGE_WAIT_S
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def call(self, operation: Callable[[], Result], *, writing: bool = False) -> Result:
        """Runs an operation, and runs it again as long as the storage is away.

        Args:
            operation: May be run any number of times.
            writing: It writes a local file; see ``is_away``.

        Raises:
            StorageAway: It was away for ``wait_s`` seconds.
            Exception: What the operation raises otherwise.
        """
        retrying = Retrying(
            retry=retry_if_exception(lambda error: _may_come_back(error, writing)),
            stop=stop_after_delay(self.wait_s),
            wait=self._pause,
            before_sleep=self._say,
            retry_error_callback=self._give_up,
        )
        try:
            return retrying(operation)
        finally:
            # Whether the storage then did what it was asked or said why not: it answers. Where it was given up, that
            # was said already.
            if retrying.statistics["attempt_number"] > 1:
                _outages.ends(self.place, well=True)

    def ask(self, what: str, operation: Callable[[], Result], *, writing: bool = False) -> Result:
        """Runs an operation as ``call`` does, and puts what is wrong for good into one sentence.

        Args:
            what: The path that it is about.
            operation: May be run any number of times.
            writing: It writes.

        Raises:
            FileNotFoundError: There is no such file.
            FileExistsError: There is one already.
            StorageAway: The storage was away for ``wait_s`` seconds.
            StorageDenied: It lets this user not in.
            StorageFault: It failed otherwise.
        """
        try:
            return self.call(operation, writing=writing)
        except (PolarRayError, FileNotFoundError, FileExistsError):
            raise
        except Exception as error:
            # The libraries below fsspec have errors of many kinds; what is none of theirs goes on as it is.
            if not is_fault(error):
                raise
            used = "written" if writing else "read"
            if is_denied(error):
                raise StorageDenied(
                    f"{what} cannot be {used}: {self._words(error)}; give this user access, or another path"
                ) from error
            raise StorageFault(f"{what} cannot be {used}: {self._words(error)}") from error

    def _words(self, error: BaseException) -> str:
        return hidden(words(error), self.secrets)

    def _pause(self, state: RetryCallState) -> float:
        # The last try is when the time is over, not before and not long after.
        left = self.wait_s - (state.seconds_since_start or 0.0)
        return max(0.0, min(wait_random_exponential(multiplier=FIRST_S, max=LONGEST_S)(state), left))

    def _say(self, state: RetryCallState) -> None:
        _outages.begins(self.place, self._words(_error(state)), self.wait_s)

    def _give_up(self, state: RetryCallState) -> NoReturn:
        _outages.ends(self.place, well=False)
        error = _error(state)
        waited = f" for {self.wait_s:g} s (limits.storage_wait_s)" if self.wait_s else ""
        raise StorageAway(
            f"{self.place} could not be used{waited}: {self._words(error)}. What is finished is kept: run the same "
            "command again when the storage is back"
        ) from error


def _may_come_back(error: BaseException, writing: bool) -> bool:
    return not isinstance(error, PolarRayError) and is_away(error, writing=writing)


def _error(state: RetryCallState) -> BaseException:
    assert state.outcome is not None, "it is asked only after a try"
    error = state.outcome.exception()
    assert error is not None, "it is asked only after a try that failed"
    return error
