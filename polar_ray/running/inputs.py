"""The input files of a run."""

from polar_ray.data.column_names import check_column_names
from polar_ray.data.listing import InputFile, list_input
from polar_ray.errors import InputError
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.folder import RunFolder
from polar_ray.scorers.catalog import entry_of


def input_files(recipe: Recipe, folder: RunFolder) -> list[InputFile]:
    """Lists the input without what lies in the run's own folder, which may be a folder of the input.

    Raises:
        InputError: A path matches nothing, a file's format is not known, or there is nothing outside the run's folder.
        StorageError: A storage cannot be used.
    """
    files = [
        file
        for file in list_input(recipe.input, recipe.limits.storage_wait_s)
        if not file.path.startswith(folder.join(""))
    ]
    if not files:
        raise InputError(f"All files of the input lie in output.path, {folder.path}; give another output.path.")
    return files


def checked_files(recipe: Recipe, folder: RunFolder, *, fresh: bool = False) -> list[InputFile]:
    """Lists the input like ``input_files``, and makes sure that its columns have the names that the recipe says.

    Quick, and without Ray: this is what goes wrong first with new data.

    Raises:
        InputError: Likewise, or no row could be scored for want of a column. Not for a run that is there already: its
            input may have been written anew.
    """
    files = input_files(recipe, folder)
    try:
        needs_reference = any(entry_of(scorer).needs_reference for scorer in recipe.named_scorers.values())
        check_column_names(files, recipe.input, recipe.limits.storage_wait_s, needs_reference=needs_reference)
    except InputError:
        if fresh or not folder.is_run():
            raise
    return files
