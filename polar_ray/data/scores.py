"""Reading a score table."""

import functools
import posixpath
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from polar_ray.data.generations import newest
from polar_ray.data.parts import check_parts, decoding, run_parts
from polar_ray.data.records import decode_record
from polar_ray.data.storage import FileInfo, Files, Storage
from polar_ray.errors import NotARun, NotFinished
from polar_ray.recipe.run import STORAGE_WAIT_S

if TYPE_CHECKING:
    import pyarrow.dataset as ds

LISTED = "scores.json"


class ListedPart(msgspec.Struct, frozen=True):
    """A part of a score table that lies in another folder; ``path`` leads there from the table's."""

    path: str
    size: int


class ListedParts(msgspec.Struct, frozen=True):
    """What ``scores.json`` holds."""

    schema: int
    parts: list[ListedPart]


def open_scores(
    run: str,
    *,
    storage_options: dict[str, Any] | None = None,
    partial: bool = False,
    wait_s: float = STORAGE_WAIT_S,
) -> "ds.Dataset":
    """Opens the score table of a run as an Arrow dataset: lazily, with column selection and filters.

    Args:
        run: The output folder of the run; its newest generation is read, or the one whose folder this is.
        storage_options: As in a recipe.
        partial: Open the parts that are there although the run has not finished.
        wait_s: Seconds in which a storage that is away may come back.

    Raises:
        NotARun: There is no run in the folder.
        NotFinished: The run has not finished, and ``partial`` is not set.
        OutputError: A part of the table is gone or damaged.
    """
    storage = Storage.of(run, storage_options, wait_s)
    root = table_folder(run, storage_options, wait_s)
    refuse_other(Storage.of(root, storage_options, wait_s))
    finished = storage.exists(f"{root}/manifest.json")
    if not finished and not partial:
        raise NotFinished(
            f"the run in {run} has not finished, so its score table is not complete; run the recipe again to finish it"
        )
    table = Storage.of(root, storage_options, wait_s)
    found = parts_of(table)
    if finished and not table.is_file(table.join(LISTED)):
        check_parts(table, found)
    parts = [info.path for info in found]
    keys = [storage.relative(path) for path in parts]
    # It loads pandas, which a run that is refused at once would wait for longer than for anything else.
    import pyarrow.dataset as ds

    # The columns are those of the first part.
    with decoding(parts[0] if parts else root):
        return storage.patiently(lambda: ds.dataset(keys, filesystem=storage.filesystem))


def refuse_other(folder: Storage) -> None:
    """Makes sure that a folder is that of a run, finished or not, or of a curation's table.

    Raises:
        NotARun: It is something else; the message says what.
    """
    if folder.is_file(folder.join("_derive/derive.json")):
        raise NotARun(
            f"{folder.url} is a dataset that was derived from a run, not a run; give the folder of the run that its "
            "manifest.json names under parent"
        )
    if folder.exists(folder.join("manifest.json")) or folder.exists(folder.join("_run/run.json")):
        return
    if folder.is_file():
        found = "is a file, not the output folder of a run"
    elif folder.exists():
        found = "is not the output folder of a run: it has no manifest.json"
    else:
        found = "is not there"
    raise NotARun(f"{folder.url} {found}; give the output.path of a run")


def parts_of(table: Storage) -> Files:
    """Returns the files of the score table in a folder, in order.

    They lie in ``scores/``, or the table is one of a curation: then ``scores.json`` names parts of several runs,
    each by its path from the folder.
    """
    listed = table.join(LISTED)
    if not table.is_file(listed):
        return run_parts(table)
    parts = decode_record(table.read_bytes(listed), listed, ListedParts).parts
    scheme, separator, root = table.url.rpartition("://")
    paths = [scheme + separator + posixpath.normpath(f"{root}/{part.path}") for part in parts]
    return [FileInfo(path, part.size) for path, part in zip(paths, parts, strict=True)]


def table_folder(run: str, storage_options: dict[str, Any] | None = None, wait_s: float = STORAGE_WAIT_S) -> str:
    """Returns the folder that holds the score table and the manifest of a run, by the run's output folder.

    It is that of the newest generation, unless the path is that of one.
    """
    return newest(run, storage_options, wait_s)[0]


def score_parts(run: str, storage_options: dict[str, Any] | None = None, wait_s: float = STORAGE_WAIT_S) -> Files:
    """Returns the parts of the score table of a finished run, in the order of its groups; errors as ``open_scores``."""
    open_scores(run, storage_options=storage_options, wait_s=wait_s)
    return parts_of(Storage.of(table_folder(run, storage_options, wait_s), storage_options, wait_s))


def read_scores(
    run: str,
    *,
    columns: Sequence[str] | None = None,
    storage_options: dict[str, Any] | None = None,
    partial: bool = False,
) -> pa.Table:
    """Reads the score table of a run: one row per group, in the order of the input.

    See ``open_scores`` for the arguments and errors, and for tables that do not fit into memory.

    Example:
        >>> table = read_scores("out/demo", columns=["prompt_id", "reward", "rank"])
        >>> table.num_rows
        40
    """
    dataset = open_scores(run, storage_options=storage_options, partial=partial)
    wanted = None if columns is None else list(columns)
    with decoding(f"the score table of {run}"):
        return Storage.of(run, storage_options).patiently(lambda: dataset.to_table(columns=wanted))


def sample(run: str, groups: int, *, storage_options: dict[str, Any] | None = None) -> pa.Table:
    """Returns a few groups of a run's score table, spread over its parts; see ``open_scores`` for errors."""
    dataset = open_scores(run, storage_options=storage_options)
    parts = list(dataset.get_fragments())
    chosen = [parts[len(parts) * place // groups] for place in range(groups)]
    each = Counter(part.path for part in chosen)
    storage = Storage.of(run, storage_options)
    tables = []
    for part in dict.fromkeys(chosen):
        with decoding(part.path):
            tables.append(storage.patiently(functools.partial(part.head, each[part.path])))
    return pa.concat_tables([dataset.schema.empty_table(), *tables])


def scorer_names(schema: pa.Schema) -> list[str]:
    """Returns the names of the scorers in a score table; the empty name stands for a single scorer."""
    suffixes = [name.removeprefix("reward") for name in schema.names if name.startswith("reward")]
    # A scorer has a status; a further column that happens to be called reward_something has none.
    scorers = [suffix for suffix in suffixes if f"status{suffix}" in schema.names]
    return [suffix.removeprefix("_") for suffix in scorers]


def scorer_columns(schema: pa.Schema) -> dict[str, list[str]]:
    """Returns the columns of each scorer, extras included: a scorer's stand together and begin with its rewards."""
    names = scorer_names(schema)
    begins = {f"reward_{name}" if name else "reward": name for name in names}
    columns: dict[str, list[str]] = {name: [] for name in names}
    owner: str | None = None
    for column in schema.names:
        owner = begins.get(column, owner)
        if owner is not None:
            columns[owner].append(column)
    return columns


def renamed(column: str, scorer: str, name: str) -> str:
    """Returns a scorer's column under another name of the scorer."""
    field = column.removesuffix(f"_{scorer}") if scorer else column
    return f"{field}_{name}" if name else field
