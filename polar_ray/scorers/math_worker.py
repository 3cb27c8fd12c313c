"""The process in which math-verify runs; ``math_verifier`` starts it and asks it.

A request is a JSON list, ``[gold]`` or ``[gold, answer]``, and an answer a JSON object: ``holds``, whether the gold
text holds an expression or the answer equals it, null where that wanted too much memory, and ``seconds`` of processor
time. math-verify swallows exceptions, MemoryError too, and answers no; it logs them, and there they are seen.
"""

import json
import logging
import time
from functools import lru_cache
from typing import Any

# math-verify calls SymPy, which takes half a second to import: this process is the only one that does so.
from math_verify import parse, verify

from polar_ray.subprocesses.serve import serve


@lru_cache(maxsize=1024)
def expressions(text: str) -> tuple[Any, ...]:
    """Returns what math-verify extracts from a text: SymPy expressions, and the extracted string."""
    return tuple(parse(text, parsing_timeout=None))


def answer(request: list[str]) -> bool:
    """Answers one request."""
    gold = expressions(request[0])
    if len(request) == 1:
        return any(not isinstance(expression, str) for expression in gold)
    # Gold comes first: verify(gold, answer) and verify(answer, gold) differ, for 1 < x < 2 and (1, 2) say.
    return bool(verify(list(gold), list(expressions(request[1])), timeout_seconds=None))


class _Memory(logging.Handler):
    """Notices that memory ran out in what was logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.ran_out = False

    def emit(self, record: logging.LogRecord) -> None:
        """Looks at the exception of a record."""
        error = record.exc_info[1] if record.exc_info else None
        while error is not None:
            self.ran_out = self.ran_out or isinstance(error, MemoryError)
            error = error.__cause__ or error.__context__


def main() -> None:
    """Answers requests until standard input ends."""
    memory = _Memory()
    logging.basicConfig(level=logging.DEBUG, handlers=[memory], force=True)

    def answered(request: bytes) -> bytes:
        memory.ran_out, started, holds = False, time.process_time(), False
        try:
            holds = answer(json.loads(request))
        except MemoryError:
            memory.ran_out = True
        spent = time.process_time() - started
        return json.dumps({"holds": None if memory.ran_out else holds, "seconds": spent}).encode()

    serve(answered)
