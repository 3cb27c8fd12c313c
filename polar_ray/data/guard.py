"""Guards: what is asked before anything is changed in a folder, and raises where that is no longer one's to do."""

from collections.abc import Callable

Guard = Callable[[], None]


def also(first: Guard | None, second: Guard) -> Guard:
    """Returns a guard that asks both; the first may be none."""
    if first is None:
        return second
    one = first

    def both() -> None:
        one()
        second()

    return both
