"""Cases made by chance from a seed: the same ones each time, or others for as long as one likes.

``make test`` tries the same few hundred cases of each fuzzer; ``make fuzz`` goes on for an hour with a seed of its own.
"""

import os
import time
from collections.abc import Callable
from random import Random

SEED = os.environ.get("POLAR_RAY_FUZZ_SEED", "polar")
SECONDS = float(os.environ.get("POLAR_RAY_FUZZ_S", "0"))
"""How long each fuzzer goes on; 0 stops after a fixed number of cases."""


def fuzz(name: str, cases: int, check: Callable[[Random], None]) -> None:
    """Calls ``check`` with a source of chance for each case, which depends on the seed, the name and its number alone.

    Raises:
        AssertionError: A case fails; the message names it.
    """
    end = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < end if SECONDS else number < cases:
        try:
            check(Random(f"{SEED}:{name}:{number}"))
        except (KeyboardInterrupt, SystemExit):
            # Whoever ends the tests means no case.
            raise
        # Panics of Rust libraries are no Exception.
        except BaseException as error:
            raise AssertionError(f"POLAR_RAY_FUZZ_SEED={SEED}, case {number} of {name!r}: {error!r}") from error
        number += 1


def damaged(chance: Random, data: bytes) -> bytes:
    """Returns bytes that were cut short, flipped, doubled, overwritten or swapped for others."""
    content = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(content) + 1)
        until = min(len(content), at + chance.choice((1, 2, 8, 64)))
        kind = chance.randrange(6)
        if kind == 0:
            del content[at:]
        elif kind == 1 and content:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del content[at:until]
        elif kind == 3:
            content[at:at] = content[at:until]
        elif kind == 4:
            content[at:until] = chance.randbytes(until - at)
        else:
            content[at:at] = chance.choice((b"\0", b'"', b"{", b"[", b"null", b"-1", b"1e999", b"9" * 30, b"\xff\xfe"))
    return bytes(content)


def replaced(chance: Random, value: object) -> object:
    """Returns a value of JSON with one of its parts, at any depth, gone or of another kind."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(sorted(value))
        if chance.random() < 0.15:
            return {name: below for name, below in value.items() if name != key}
        return {**value, key: replaced(chance, value[key])}
    if isinstance(value, list) and value and chance.random() < 0.85:
        at = chance.randrange(len(value))
        return [*value[:at], replaced(chance, value[at]), *value[at + 1 :]]
    return chance.choice(
        (None, True, -1, 0, 2**63, 1e308, "", "x", "../x", "\0", [], [[]], ["x", 1], {}, {"x": None}, "{%", "(")
    )
