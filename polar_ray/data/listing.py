"""Listing: from the paths of a recipe to the files that hold its input."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from polar_ray.data.glob import escaped, fixed_folder, is_glob
from polar_ray.data.place import Places
from polar_ray.data.scores import score_parts
from polar_ray.data.storage import FileInfo, Files, Storage
from polar_ray.errors import InputError, NoFiles, NoFolder, StorageFault
from polar_ray.recipe.input import Input
from polar_ray.recipe.run import STORAGE_WAIT_S

Format = Literal["parquet", "jsonl"]
Compression = Literal["gzip", "zstd"]

_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
_FORMATS: dict[str, Format] = {".parquet": "parquet", ".jsonl": "jsonl", ".json": "jsonl"}

_NO_DATA = re.compile(r".*\.md|(LICENSE|NOTICE|CITATION)(\.[a-z]+)?|dataset_infos?\.json")


@dataclass(frozen=True)
class InputFile:
    """A file of the input.

    Attributes:
        path: A URL or an absolute local path.
        size: Bytes as stored.
        etag: The object's version, where the storage's listing tells it.
        mtime: Seconds since 1970, where the listing tells it.
        format: How its rows are written.
        compression: Of a JSONL file as a whole; Parquet compresses inside.
    """

    path: str
    size: int
    etag: str | None
    mtime: float | None
    format: Format
    compression: Compression | None


def list_input(
    config: Input, wait_s: float = STORAGE_WAIT_S, *, without: Sequence[str] = (), recorded: Collection[str] = ()
) -> list[InputFile]:
    """Lists the input's files, sorted by path and each once.

    A folder stands for all files below it. Names that start with ``_`` or ``.`` (markers and leftovers of other
    writers) are passed over in folders and by wildcards, and so is what describes data (``README.md`` and other
    ``.md`` files, licences, ``dataset_info.json``); named in full they are read.

    With ``format: scores`` the files are the parts of the run's score table.

    Args:
        config: The recipe's input.
        wait_s: Seconds in which a storage that is away may come back.
        without: Folders that are no input although they may lie in it, by whatever path either is given.
        recorded: Files that a run has in its record: an earlier version may have read what is passed over today.

    Raises:
        NotARun: With ``format: scores``, there is no run at the path.
        NotFinished: The run there has not finished.
        NoFiles: A path matches nothing.
        NoFolder: It cannot match anything, since its folder is not there.
        InputError: A file's format is not known by its name.
        StorageError: A storage cannot be used.
    """
    if config.format == "scores":
        assert isinstance(config.path, str), "the recipe takes one run"
        parts = score_parts(config.path, config.storage_options, wait_s)
        return [InputFile(part.path, part.size, part.etag, part.mtime, "parquet", None) for part in parts]
    paths = [config.path] if isinstance(config.path, str) else config.path
    recorded = frozenset(recorded)
    found: dict[str, FileInfo] = {}
    for path in paths:
        for info in _list_path(path, config, wait_s, recorded):
            found[info.path] = info
    own = Places(without)
    kept = [path for path in sorted(found) if path in recorded or not own.hold(path)]
    if unknown := [path for path in kept if _format(path, config)[0] is None]:
        raise _unknown(unknown, len(kept))
    return [input_file(found[path], config) for path in kept]


def _list_path(path: str, config: Input, wait_s: float, recorded: Collection[str]) -> Files:
    storage = Storage.of(path, config.storage_options, wait_s)
    try:
        if storage.is_file():
            return storage.list()
        # What is there as it is written is no pattern.
        if is_glob(path) and not storage.exists():
            pattern = _without_literal_brackets(storage)
            what, folder, matches = "files match", fixed_folder(storage.relative(pattern)), storage.glob(pattern)
        else:
            what, folder, matches = "files are in", storage.root, storage.list()
    except StorageFault:
        raise
    except OSError as error:
        raise InputError(f"The input {path} cannot be listed: {error}") from error
    if config.format == "auto" and _is_run(matches, storage):
        raise InputError(
            f"{path} is the output folder of a run. To add scorers to its score table, set input.format=scores; to "
            "score its groups as if they were new, give input.path its scores folder"
        )
    asked = storage.root.split("/")
    kept = [info for info in matches if info.path in recorded or not _is_passed_over(info.path, folder, asked)]
    if not kept:
        hidden = len(matches) - len(kept)
        passed = (
            f" ({hidden} were passed over, because their names start with '_' or '.', or are those of descriptions)"
            if hidden
            else ""
        )
        sentence = f"No {what} {storage.url}{passed}"
        advice = "Check input.path, and the spelling of its folders."
        # Only a local folder is there before a file is in it.
        if storage.is_local and not storage.exists(folder):
            raise NoFolder(f"{sentence}: there is no {folder}. {advice}")
        raise NoFiles(f"{sentence}. {advice}")
    return kept


def _without_literal_brackets(storage: Storage) -> str:
    """Returns a pattern in which folders that are there as they are written, such as ``in [1]``, match themselves."""
    names = storage.url.split("/")
    for place, name in enumerate(names):
        if is_glob(name):
            if "[" not in name or not storage.exists("/".join(names[: place + 1])):
                break
            names[place] = escaped(name)
    return "/".join(names)


def _is_run(files: Files, storage: Storage) -> bool:
    """Whether a folder holds a score table and its manifest."""
    paths = [info.path for info in files]
    return storage.join("manifest.json") in paths and any(
        path.startswith(storage.join("scores", "part-")) for path in paths
    )


def _is_passed_over(path: str, folder: str, asked: list[str]) -> bool:
    """Whether a name below ``folder`` starts with ``_`` or ``.`` and was not asked for in so many letters."""
    *folders, name = path[path.index(folder) + len(folder) :].split("/")
    if name[0] in "_." and asked[-1][:1] != name[0]:
        return True
    # Every folder of the Hugging Face hub has some of these beside its data.
    if _NO_DATA.fullmatch(name) and asked[-1] != name:
        return True
    return any(part.startswith(("_", ".")) and part not in asked for part in folders)


def input_file(info: FileInfo, config: Input) -> InputFile:
    """Returns a listed file with its format, which its name tells unless the recipe does.

    Raises:
        InputError: The format is not known, or the file cannot be entered in the middle.
    """
    format_, compression = _format(info.path, config)
    if format_ is None:
        raise _unknown([info.path], 1)
    if format_ == "parquet" and compression is not None:
        raise InputError(
            f"{info.path} is a compressed Parquet file, which cannot be entered in the middle. Decompress it; "
            "Parquet compresses inside."
        )
    return InputFile(info.path, info.size, info.etag, info.mtime, format_, compression)


def _format(path: str, config: Input) -> tuple[Format | None, Compression | None]:
    compression: Compression | None = None
    for suffix, name in _COMPRESSIONS.items():
        if path.endswith(suffix):
            path, compression = path.removesuffix(suffix), name
    if config.format in ("parquet", "jsonl"):
        return config.format, compression
    return next((name for suffix, name in _FORMATS.items() if path.endswith(suffix)), None), compression


def _unknown(paths: Sequence[str], of: int) -> InputError:
    more = f", and of {len(paths) - 1:,} more of the {of:,} files," if len(paths) > 1 else ""
    return InputError(
        f"The format of {paths[0]}{more} is not known by its name. Name it .parquet, .jsonl or .json (with .gz or "
        ".zst), leave out what is no input with a glob such as folder/**/*.parquet, or a list of them such as "
        """input.path='["folder/*.jsonl", "folder/*.parquet"]', or set input.format."""
    )
