"""Clearing: deletes a run and nothing else. What a run has is named here, file by file."""

from dataclasses import replace

from polar_ray.data.generations import FOLDER, generation
from polar_ray.data.one_writer import one_writer
from polar_ray.data.own_files import Own, delete_own, refuse_links
from polar_ray.running.folder import RECORDS, RUN, RunFolder
from polar_ray.running.identity import read_identity

_SPLIT = r"(?P<split>\d{5,}-\d{5,}|scattered-\d{5,})"

SPLITS = (
    # No split may look done whose part is gone.
    Own("_run/commits", rf"{_SPLIT}\.json"),
    Own("_run/duplicates", rf"{_SPLIT}\.json"),
    Own("_run/origins", rf"{_SPLIT}\.json"),
    Own("scores", rf"part-{_SPLIT}\.parquet"),
    Own("dead_letters", rf"part-{_SPLIT}(-duplicates)?\.parquet"),
)
"""What stands for splits, each named after its own, in the order in which it is deleted."""
RESULTS = (
    # Nothing may look finished that is not.
    Own("", "manifest.json"),
    *SPLITS,
    Own("_run", r"token_budgets\.json"),
    Own("_run", r"taken_back\.json"),
)
"""All files of a run but its record, in the order in which they are deleted."""
RECORD = Own("_run", r"run\.json")
"""What says that a folder is a run's: it goes last, so that an interrupted clearing can be repeated."""


def clear(folder: RunFolder) -> None:
    """Deletes the run in a folder, with its generations; a folder without a run is left as it is.

    Raises:
        NotARun: The run's record is damaged; nothing was deleted.
        OutputError: A folder of the run is a link, or somebody writes there; nothing was deleted.
    """
    if read_identity(folder) is not None:
        with one_writer(folder.storage, RECORDS, RUN) as lease:
            _clear(folder.guarded(lease.check_lately))


def _clear(folder: RunFolder) -> None:
    if read_identity(folder) is not None:
        clear_results(folder)
        delete_own(folder.storage, folder.path, (RECORD,))


def clear_results(folder: RunFolder) -> None:
    """Deletes all of a run but its record.

    Raises:
        NotARun: The record of one of its generations is damaged; nothing was deleted.
        OutputError: A folder of the run is a link; nothing was deleted.
    """
    check_clearable(folder)
    for later in reversed(_generations(folder)):
        # The newest goes first: what is left in between is a run with fewer retries.
        _clear(later)
    folder.storage.delete_empty(folder.join(FOLDER))
    delete_own(folder.storage, folder.path, RESULTS)


def check_clearable(folder: RunFolder) -> None:
    """Makes sure that a run can be cleared, before anything is deleted.

    Raises:
        NotARun: The record of the run, or of one of its generations, is damaged.
        OutputError: A folder of the run is a link.
    """
    if read_identity(folder) is None:
        return
    # The name in the folder of generations is plain: what is asked here is whether that folder is a link.
    refuse_links(folder.storage, folder.path, (*RESULTS, RECORD, Own(FOLDER, "")))
    for later in _generations(folder):
        refuse_links(folder.storage, folder.path, (Own(later.path[len(folder.join("")) :], ""),))
        check_clearable(later)


def _generations(folder: RunFolder) -> list[RunFolder]:
    """The folders that retries of the run made, oldest first."""
    storage = folder.storage
    paths = [info.path for info in storage.list(folder.join(FOLDER))]
    start = len(folder.join(FOLDER, ""))
    numbers = sorted({int(name) for path in paths if (name := path[start:].split("/")[0]).isdecimal()})
    found = [replace(folder, path=generation(folder.path, number)) for number in numbers if number > 1]
    return [later for later in found if later.is_run()]
