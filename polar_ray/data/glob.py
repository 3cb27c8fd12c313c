"""Globs over the paths of any storage: ``*``, ``?``, ``[...]`` inside a name, ``**`` across folders."""

import fnmatch
import re
from dataclasses import dataclass
from functools import cache
from itertools import product

from polar_ray.errors import InputError

_MAGIC = re.compile(r"[*?\[]")
_ACROSS = "**"
MOST_ACROSS = 8
"""Names with ``**`` beside other characters that a pattern may have: each doubles what is tried."""


def is_glob(path: str) -> bool:
    """Whether a path has any of the characters ``*``, ``?`` and ``[``."""
    return _MAGIC.search(path) is not None


def fixed_folder(pattern: str) -> str:
    """Returns the folders before the first name with a wildcard, so that no more than that is listed."""
    names = pattern.split("/")
    fixed = names[: next(i for i, name in enumerate(names) if is_glob(name))]
    return "/".join(fixed) or ("/" if pattern.startswith("/") else "")


def escaped(name: str) -> str:
    """Returns a pattern that matches this very name."""
    return _MAGIC.sub(lambda found: f"[{found[0]}]", name)


@dataclass(frozen=True)
class Glob:
    """A pattern; matching takes time proportional to the product of both lengths at most.

    Attributes:
        ways: Each way to match: the names of a path in turn, None where any number of names, or none, may stand.
    """

    ways: tuple[tuple[re.Pattern[str] | None, ...], ...]

    def matches(self, path: str) -> bool:
        """Whether a path matches."""
        names = path.split("/")
        return any(_matches(way, names) for way in self.ways)


@cache
def compile_glob(pattern: str) -> Glob:
    """Returns the pattern, ready to be matched.

    ``**`` as a whole name stands for any number of folders; at the end for all that is below. As a part of a name it
    is ``*`` that may also go across folders.

    Raises:
        InputError: It has too many ``**`` inside names.
    """
    names = pattern.split("/")
    if sum(_ACROSS in name and name != _ACROSS for name in names) > MOST_ACROSS:
        raise InputError(f"{pattern} has more than {MOST_ACROSS} names with ** in them; write **/ for folders")
    each = [_ways(name, last=place == len(names) - 1) for place, name in enumerate(names)]
    ways = []
    for chosen in product(*each):
        parts = [part for name in chosen for part in name]
        # Any number of folders twice in a row is any number of folders.
        kept = [part for place, part in enumerate(parts) if part != _ACROSS or parts[place - 1 : place] != [_ACROSS]]
        ways.append(tuple(None if part == _ACROSS else _name(part) for part in kept))
    return Glob(tuple(ways))


def _ways(name: str, *, last: bool) -> list[list[str]]:
    """Returns the ways to match a name of a pattern: each a list of names."""
    if name == _ACROSS:
        return [[_ACROSS, "*"]] if last else [[_ACROSS]]
    if _ACROSS not in name:
        return [[name]]
    before, _, after = name.partition(_ACROSS)
    after = after.replace(_ACROSS, "*").lstrip("*")
    return [[f"{before}*{after}"], [f"{before}*", _ACROSS, f"*{after}"]]


def _name(part: str) -> re.Pattern[str]:
    # fnmatch's expressions do not backtrack across a star; it knows ! as the sign of what is not meant, but not ^.
    return re.compile(fnmatch.translate(part.replace("[^", "[!")))


def _matches(way: tuple[re.Pattern[str] | None, ...], names: list[str]) -> bool:
    """Whether names match; the classical walk, in which only the last gap ever needs to grow."""
    place = name = 0
    gap: tuple[int, int] | None = None
    while name < len(names):
        if place < len(way) and way[place] is None:
            gap = (place, name)
            place += 1
            continue
        pattern = way[place] if place < len(way) else None
        if pattern is not None and pattern.match(names[name]):
            place, name = place + 1, name + 1
            continue
        if gap is None:
            return False
        gap = (gap[0], gap[1] + 1)
        place, name = gap[0] + 1, gap[1]
    return all(part is None for part in way[place:])
