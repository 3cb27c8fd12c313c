"""The input files of a run, and whether they are still what they were."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from polar_ray.data.column_names import check_column_names
from polar_ray.data.generations import run_of
from polar_ray.data.listing import InputFile, list_input
from polar_ray.data.sources import Source
from polar_ray.data.storage import Storage
from polar_ray.errors import InputError, UnopenedFile
from polar_ray.recipe.input import Input
from polar_ray.recipe.recipe import Recipe
from polar_ray.recipe.run import Limits, goes_with_the_job
from polar_ray.running.folder import RunFolder
from polar_ray.running.identity import describe, read_identity
from polar_ray.scorers.catalog import entry_of

GONE = "it is gone"
"""What is different with a file that is not there any more."""


def input_files(recipe: Recipe, folder: RunFolder, recorded: Collection[str] = ()) -> list[InputFile]:
    """Lists the input without what the recipe itself writes, which may lie in a folder of the input.

    Whoever asks what a run reads asks here: to begin it, to resume or to retry it, and to see whether it changed.

    Args:
        recipe: Says where the input is.
        folder: The run's, or that of one of its generations.
        recorded: Paths of the files that the run has in its record, whatever version listed them.

    Raises:
        InputError: A path matches nothing, a file's format is not known, or all is what the recipe writes.
        StorageError: A storage cannot be used.
    """
    if not recipe.input.path:
        raise InputError("input.path gives no path: name at least one file, folder or glob.")
    without = written_folders(recipe, folder)
    files = list_input(recipe.input, recipe.limits.storage_wait_s, without=without, recorded=recorded)
    if not files:
        raise InputError(
            f"All files of the input lie in output.path, {folder.path}, or where the recipe derives to; give another "
            "output.path."
        )
    return files


def written_folders(recipe: Recipe, folder: RunFolder) -> list[str]:
    """Returns the folders that a run and its derivations write into.

    Args:
        recipe: What is scored and derived.
        folder: Of the run, or of one of its generations.
    """
    run, _ = run_of(folder.path, folder.options, folder.wait_s)
    derived = [
        RunFolder.of(each.output.path, each.output.storage_options, each.limits.storage_wait_s)
        for each in recipe.derivations.values()
    ]
    return list(dict.fromkeys([run, *(each.path for each in derived)]))


def checked_files(recipe: Recipe, folder: RunFolder, *, fresh: bool = False) -> list[InputFile]:
    """Lists the input like ``input_files``, and makes sure that its columns have the names that the recipe says.

    Quick, and without Ray: this is what goes wrong first with new data.

    Raises:
        NotARun: The record of the run in the folder is damaged.
        InputError: Likewise, or no row could be scored for want of a column. Not for a run that is there already: its
            input may have been written anew.
    """
    before = None if fresh else read_identity(folder)
    files = input_files(recipe, folder, before.files if before is not None else ())
    try:
        needs_reference = any(entry_of(scorer).needs_reference for scorer in recipe.named_scorers.values())
        check_column_names(files, recipe.input, recipe.limits.storage_wait_s, needs_reference=needs_reference)
    except InputError:
        if fresh or not folder.is_run():
            raise
    return files


def no_rows(files: Sequence[InputFile]) -> InputError:
    """Returns the error of an input in which there is not one row."""
    first = files[0].path
    where = f"{first} has" if len(files) == 1 else f"the {len(files):,} files of the input, {first} first, have"
    return InputError(
        f"{where} no rows, so there is nothing to score. Correct input.path, or wait until there are rows, and run the "
        "same command again; an empty score table is made with limits.allow_empty=true"
    )


def refuse_unopened(sources: Sequence[Source], limits: Limits) -> None:
    """Stops a run before anything is scored, where it is known already that too many files cannot be opened.

    Raises:
        UnopenedFile: More than ``limits.max_unopened_files``.
    """
    unopened = [source for source in sources if source.unopened]
    if len(unopened) > limits.max_unopened_files:
        more = f" ({len(unopened)} files in all)" if len(unopened) > 1 else ""
        raise UnopenedFile(f"{unopened[0].error}{more}")


def changed_files(files: Sequence[InputFile], recipe: Recipe, folder: RunFolder) -> dict[str, str]:
    """Describes files of the input again and returns those that are not what they were, with what is different.

    Args:
        files: As they were listed before anything was read.
        recipe: The run's.
        folder: The run's, or that of one of its generations.
    """
    try:
        now = {file.path: describe(file) for file in input_files(recipe, folder, [file.path for file in files])}
    except InputError:
        now = {}
    changed = {}
    for file in files:
        before, after = describe(file), now.get(file.path) or _alone(file, recipe)
        if after is None:
            changed[file.path] = GONE
        elif after != before:
            differing = [key for key in after if before.get(key) != after[key]]
            changed[file.path] = ", ".join(f"{key} was {before.get(key)} and is {after[key]}" for key in differing)
    return changed


def _alone(file: InputFile, recipe: Recipe) -> dict[str, Any] | None:
    """Describes a file that the recipe's path does not lead to from here."""
    storage = Storage.of(file.path, recipe.input.storage_options, recipe.limits.storage_wait_s)
    found = [info for info in storage.list() if info.path == file.path]
    info = found[0] if found else None
    return None if info is None else describe(replace(file, size=info.size, etag=info.etag, mtime=info.mtime))


def of_this_job_only(config: Input) -> str | None:
    """Returns what is to be said of input that a submitted job has brought along, if there is some."""
    paths = [config.path] if isinstance(config.path, str) else config.path
    path = next(filter(goes_with_the_job, paths), None)
    if path is None:
        return None
    return (
        f"input.path {path} is a relative path: it names the copy that Ray made for this job. Another job may get "
        "another one, and this run could be neither resumed nor retried; give an absolute path on a shared file "
        "system, or a URL"
    )
