"""The process in which math-verify runs; ``math_verifier`` starts it and talks to it.

It reads one JSON list per line, ``[gold]`` or ``[gold, answer]``, and writes one JSON value per line: whether the gold
text holds an expression, or whether the answer equals it. A computation that takes more processor time than the
process's argument says (seconds) ends the process by SIGPROF, which no code in it can hold up or swallow.
"""

import json
import logging
import os
import signal
import sys
from functools import lru_cache
from typing import Any

# math-verify calls SymPy, which takes half a second to import: this process is the only one that does so.
from math_verify import parse, verify


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


def main(seconds: float) -> None:
    """Answers requests until standard input ends."""
    logging.disable()
    # The grammar's runtime prints to standard output, which must carry answers only.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        result = answer(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(result) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]))
