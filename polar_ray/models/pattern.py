"""Regular expressions that come with an adapter: compiled and matched within a limit of processor time."""

import regex

from polar_ray.errors import CheckpointError

MATCH_S = 0.25
"""Seconds of processor time for one match; an honest pattern takes microseconds for the name of a module."""
LONGEST = 10_000
"""Characters of a pattern. PEFT's own, which list modules by name, are a tenth of that."""


def matches(pattern: str, name: str, *, what: str, whole: bool = False) -> "regex.Match[str] | None":
    """Returns the match of a pattern at the start of a name, as Python's ``re.match`` finds it.

    Python's own engine backtracks without end over patterns such as ``(a+)+$``.

    Args:
        pattern: From a file.
        name: Of a module.
        what: Names the pattern in an error.
        whole: It must match the whole name, as for ``re.fullmatch``.

    Raises:
        CheckpointError: The pattern is not one, or takes too long.
    """
    if len(pattern) > LONGEST:
        raise CheckpointError(
            f"{what} is a regular expression of {len(pattern):,} characters; at most {LONGEST:,} are."
        )
    try:
        return (regex.fullmatch if whole else regex.match)(pattern, name, timeout=MATCH_S)
    except TimeoutError:
        raise CheckpointError(
            f"{what} is a regular expression that takes too long ({pattern!r:.80} on {name!r:.80}). Write it without "
            "repetitions inside repetitions."
        ) from None
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"{what} is not a regular expression ({type(error).__name__}: {error}): {pattern!r:.80}. Correct it."
        ) from error
