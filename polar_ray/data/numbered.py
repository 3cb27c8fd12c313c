"""Files that are named by a number, such as ``000000000007.json``: the highest one counts."""

import re

from polar_ray.data.storage import Storage
from polar_ray.errors import StateError

_NAME = re.compile(r"[0-9]{12}\.json")


def numbers(storage: Storage) -> list[int]:
    """Returns the numbers of the files in a folder that are named by one, the highest last."""
    # A copy that somebody made of one of these files is none of them.
    names = [info.path.rsplit("/", 1)[-1] for info in storage.list()]
    return sorted(int(name.removesuffix(".json")) for name in names if _NAME.fullmatch(name))


def highest(storage: Storage) -> int:
    """Returns the highest of them; 0 where there is none."""
    return max(numbers(storage), default=0)


def numbered(storage: Storage, number: int) -> str:
    """Returns the path of the file that is named by a number.

    Raises:
        StateError: There is no higher one than what is there.
    """
    if number >= 10**12:
        raise StateError(
            f"{storage.url} has a file with the highest number there can be, so nothing comes after it; if you are "
            "sure that nobody works there, delete that file"
        )
    return storage.join(f"{number:012d}.json")
