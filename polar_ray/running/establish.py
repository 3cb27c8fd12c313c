"""Establishing: a folder becomes that of a run, or is found to be it already."""

import msgspec

from polar_ray.running.clearing import clear_results
from polar_ray.running.folder import RunFolder
from polar_ray.running.identity import Identity, check_same, read_identity
from polar_ray.running.taking_back import finish_taking_back, forget


def establish(folder: RunFolder, identity: Identity, *, fresh: bool = False) -> Identity:
    """Records what the run in the folder is, or checks that a run already there is the same.

    Args:
        folder: Where the run is, or is to be.
        identity: What the run is.
        fresh: Delete a run that is there already, and nothing else.

    Returns:
        What the run was begun as, by whose rules it goes on.

    Raises:
        NotARun: The folder holds files but no run.
        OutputError: A folder of the run is a link, behind which nothing is deleted.
        RecipeChanged: The run there has another recipe, input or model; the message says where they differ.
    """
    earlier = read_identity(folder)
    if earlier is not None and not fresh:
        _resume(folder, earlier, identity)
        return earlier
    if earlier is None:
        folder.check_free()
    else:
        # The old record stays until the new one takes its place: beside the run there may be files of the user's, and
        # without a record nobody could tell whose folder this is.
        clear_results(folder)
    folder.storage.write_atomic(folder.identity, msgspec.json.encode(identity))
    return identity


def _resume(folder: RunFolder, earlier: Identity, identity: Identity) -> None:
    """Checks that the run is the same, where files whose splits were taken back may be what they are now."""
    taken = finish_taking_back(folder)
    if taken is None:
        check_same(folder, earlier, identity)
        return
    files = {
        path: identity.files.get(path, before) if path in taken.changed else before
        for path, before in earlier.files.items()
    }
    check_same(folder, msgspec.structs.replace(earlier, files=files), identity)
    going_on = msgspec.structs.replace(identity, reading=earlier.reading, limits_errors=earlier.limits_errors)
    folder.storage.write_atomic(folder.identity, msgspec.json.encode(going_on))
    forget(folder)
