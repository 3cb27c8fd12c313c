"""Generations of a run: the run itself is the first, and each retry of what failed makes the next.

RUN                     generation 1: what ``run`` wrote
RUN/generations/2       generation 2: a whole run folder again, and so on

Whoever reads a run by its path gets the newest generation that has finished. An older one has a path of its own;
``RUN/generations/1`` stands for the run itself.
"""

import re
from typing import Any

from polar_ray.data.storage import Storage
from polar_ray.recipe.run import STORAGE_WAIT_S

FOLDER = "generations"
RECORD = "_run/run.json"
"""What makes a folder that of a run."""
_OF_RUN = re.compile(rf"^(?P<run>.+)/{FOLDER}/(?P<number>\d+)$")


def run_of(path: str, options: dict[str, Any] | None = None, wait_s: float = STORAGE_WAIT_S) -> tuple[str, int | None]:
    """Returns the run that a path belongs to, and the number of the generation that it names, if it names one.

    A folder of such a name names a generation only where it lies in a run.

    Args:
        path: A run's output folder, or that of one of its generations.
        options: ``storage_options``.
        wait_s: Seconds in which a storage that is away may come back.
    """
    match = _OF_RUN.match(path.rstrip("/"))
    if match is None or not Storage.of(match["run"], options, wait_s).is_file(f"{match['run']}/{RECORD}"):
        return path.rstrip("/"), None
    return match["run"], int(match["number"])


def generation(run: str, number: int) -> str:
    """Returns the folder of a run's generation."""
    return run.rstrip("/") if number == 1 else f"{run.rstrip('/')}/{FOLDER}/{number}"


def newest(path: str, options: dict[str, Any] | None = None, wait_s: float = STORAGE_WAIT_S) -> tuple[str, int]:
    """Returns folder and number of the generation that is read by ``path``.

    Args:
        path: A run's output folder, or that of one of its generations.
        options: ``storage_options``.
        wait_s: Seconds in which a storage that is away may come back.
    """
    run, number = run_of(path, options, wait_s)
    if number is not None:
        return generation(run, number), number
    storage = Storage.of(run, options, wait_s)
    number = 1
    # One is begun only when the one before has finished, so the first that is not there ends the search.
    while storage.is_file(f"{generation(run, number + 1)}/manifest.json"):
        number += 1
    return generation(run, number), number
