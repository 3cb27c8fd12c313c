"""Compares mathematical answers with math-verify, in a process of its own."""

import json
import re
from dataclasses import dataclass, field
from decimal import Decimal

from polar_ray.data.status import Status
from polar_ray.errors import ScoringError
from polar_ray.subprocesses.limited import Ended, LimitedProcess

_PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d{1,6})?")
_MOST_CHARACTERS = 15
MEMORY_BYTES = 4 * 2**30
"""Bytes of addresses that math-verify's process may have; its libraries take a quarter of a GiB."""


@dataclass(frozen=True)
class Verdict:
    """What a comparison came to.

    Attributes:
        holds: Whether the answers are equal; False where the status is not ``ok``.
        status: ``ok``, ``timeout``, or ``error`` where math-verify's process broke down or wanted too much memory.
        error: The message, where the status is not ``ok``.
        seconds: Of processor time that it took; 0 where math-verify was not asked.
    """

    holds: bool
    status: Status = Status.OK
    error: str | None = None
    seconds: float = field(default=0, compare=False)


class MathVerifier:
    """Compares mathematical answers by math-verify (https://github.com/huggingface/Math-Verify).

    math-verify bounds its own time by an alarm signal, which works in a main thread only, and a caller that swallows
    the exception elsewhere scores every answer 0. Here it runs without that alarm in a process of its own, which the
    kernel ends when one comparison has used ``timeout_s`` seconds of processor time. So it works from any thread, a
    hang is told from a wrong answer, and a busy machine does not turn answers into timeouts.

    The process starts with the first comparison that needs it.

    Args:
        timeout_s: Seconds of processor time for one comparison.
        memory_bytes: Of addresses that its process may have.
    """

    def __init__(self, timeout_s: float, memory_bytes: int = MEMORY_BYTES) -> None:
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._process = LimitedProcess("polar_ray.scorers.math_worker", timeout_s, memory_bytes)

    def is_expression(self, gold: str) -> Verdict:
        """Returns whether math-verify finds an expression in a reference answer.

        Raises:
            ScoringError: math-verify's process cannot be started.
        """
        return Verdict(True) if _is_plain(gold) else self._ask([gold])

    def equal(self, gold: str, answer: str) -> Verdict:
        """Returns whether an answer equals the reference answer, in this order: the relation is not symmetric.

        Two plain numbers of at most 15 characters, 6 of them decimals, are compared here. math-verify, which compares
        decimal numbers after rounding to 6 places, says the same of those.

        Raises:
            ScoringError: math-verify's process cannot be started.
        """
        if _is_plain(gold) and _is_plain(answer):
            return Verdict(Decimal(gold) == Decimal(answer))
        return self._ask([gold, answer])

    def close(self) -> None:
        """Ends math-verify's process, if there is one. A later comparison starts another."""
        self._process.close()

    def _ask(self, request: list[str]) -> Verdict:
        try:
            answer = json.loads(self._process.ask(json.dumps(request).encode()))
        except Ended as end:
            return self._broken_down(end, request)
        if answer["holds"] is None:
            message = f"math-verify wanted more than {self._memory_bytes / 2**30:.3g} GiB of memory"
            return Verdict(False, Status.ERROR, message, answer["seconds"])
        return Verdict(answer["holds"], seconds=answer["seconds"])

    def _broken_down(self, end: Ended, request: list[str]) -> Verdict:
        if end.took_too_long:
            message = f"math-verify took more than {self._timeout_s:g} s of processor time"
            return Verdict(False, Status.TIMEOUT, message, self._timeout_s)
        if not end.started:
            raise ScoringError(
                f"math-verify's process ended with status {end.status} as it started; its message is on standard "
                "error. Repair the math-verify installation, or set `math: false` in the text_closeness scorer."
            ) from None
        message = f"math-verify's process ended with status {end.status} on {request!r:.200}"
        return Verdict(False, Status.ERROR, message)


def _is_plain(answer: str) -> bool:
    return len(answer) <= _MOST_CHARACTERS and _PLAIN_NUMBER.fullmatch(answer) is not None
