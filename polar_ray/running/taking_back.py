"""Taking back: splits that were committed, and are to be scored again, leave the folder.

What is to go is written down first, so that whoever comes after an interruption finishes it before it resumes.
"""

from collections.abc import Callable, Collection, Iterable

import msgspec

from polar_ray.data.listing import InputFile
from polar_ray.data.own_files import delete_own
from polar_ray.data.records import decode_record
from polar_ray.recipe.input import Input
from polar_ray.running.clearing import SPLITS
from polar_ray.running.folder import RunFolder


class TakenBack(msgspec.Struct, frozen=True):
    """What is taken back.

    Attributes:
        changed: Paths of files whose content is no longer the recorded one: they are read as they are next time.
        files: Positions of the files whose splits go.
        splits: Other splits that go.
        partitions: Whether all partitions of scattered input go, since each may hold rows of those files.
    """

    changed: list[str]
    files: list[int]
    splits: list[str]
    partitions: bool

    def holds(self, split: str) -> bool:
        """Whether a split goes."""
        file, _, _ = split.partition("-")
        return split in self.splits or (self.partitions if file == "scattered" else int(file) in self.files)


def take_back(
    folder: RunFolder,
    files: Collection[InputFile],
    paths: Collection[str],
    config: Input,
    *,
    changed: bool,
    also: Iterable[str] = (),
) -> TakenBack:
    """Takes the splits of some files back, so that they are read and scored again.

    Splits out of which duplicates were taken go too: the first occurrence of a prompt may have been in those files.

    Args:
        folder: The run's.
        files: All files of the input.
        paths: Those that are to be read again.
        config: The recipe's input.
        changed: Whether their content changed, so that the run is to go on with another one.
        also: More splits that are to go.
    """
    record = TakenBack(
        changed=sorted(paths) if changed else [],
        files=[index for index, file in enumerate(files) if file.path in paths],
        splits=sorted({*also, *folder.read_records("duplicates", dict)}),
        partitions=bool(paths) and config.layout == "scattered",
    )
    folder.storage.write_atomic(folder.taken_back, msgspec.json.encode(record))
    _delete(folder, record.holds)
    return record


def finish_taking_back(folder: RunFolder) -> TakenBack | None:
    """Finishes what was begun, if anything was; ``forget`` ends it."""
    storage = folder.storage
    if not storage.is_file(folder.taken_back):
        return None
    record = decode_record(
        storage.read_bytes(folder.taken_back),
        folder.taken_back,
        TakenBack,
        "what it says is to be scored again is not known any more: start over with --fresh",
    )
    _delete(folder, record.holds)
    return record


def forget(folder: RunFolder) -> None:
    """Notes that nothing is to be taken back any more."""
    folder.storage.delete(folder.taken_back)


def _delete(folder: RunFolder, holds: Callable[[str], bool]) -> None:
    delete_own(folder.storage, folder.path, SPLITS, only=lambda match: holds(match["split"]))
