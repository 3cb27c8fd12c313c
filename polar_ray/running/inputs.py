"""The input files of a run."""

from polar_ray.data.listing import InputFile, list_input
from polar_ray.errors import InputError
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.folder import RunFolder


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
