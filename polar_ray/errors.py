"""The exception tree.

    PolarRayError
    ├── RecipeError            a recipe or an override is wrong
    ├── InputError             the input cannot be listed or read at all
    │   ├── NoFiles            nothing is there yet
    │   ├── NoFolder           not even the folder is there
    │   ├── UnopenedFile       a file is not there any more, or may not be read
    │   ├── InputChanged       a file was written while it was read
    │   ├── TooManyDeadLetters the input is mostly garbage
    │   └── NotJoined          a joined run lacks candidates
    ├── StorageError           a path or an object store cannot be used
    │   ├── NotShareable       two processes could create the same file there
    │   └── StorageFault       a storage did not do what was asked of it
    │       ├── StorageAway    it was waited for, and did not come back
    │       └── StorageDenied  it does not let this user in
    ├── OutputError            the output folder is not usable for this run
    │   ├── NotARun            the folder holds something that is not a run
    │   ├── OutputBusy         another process writes there
    │   ├── NotFinished        a run is there, but it has not finished
    │   └── RecipeChanged      resuming would mix two recipes
    │       └── ScorerChanged  one table would hold rewards of two scorers
    ├── CheckpointError        a model's files are not what the scorer needs
    ├── TokenizerError         a tokenizer or chat template cannot be used safely
    ├── SelfCheckError         a scorer came out wrong on its own known pair
    ├── ScoringError           every group failed, so the run stopped
    │   └── DeviceLost         a device, or a process that computes on one, cannot be used any more
    ├── ClusterUnreachable     there is no Ray at the address
    ├── RayChanged             this version of Ray lacks what polar_ray takes of it
    ├── ClusterTooSmall        the actors that the recipe asks for do not fit
    ├── RunStalled             no progress for too long
    ├── StateError             a record of what was done is damaged or gone
    ├── LeaseLost              another process may have taken over
    └── ConservationError      rows read != groups + dead letters + declared drops

Each message says what is wrong, where, and what to do next.
"""


class PolarRayError(Exception):
    """Base of every error that polar_ray raises on purpose."""


class RecipeError(PolarRayError):
    """A recipe or a command-line override is wrong."""


class InputError(PolarRayError):
    """The input cannot be listed or read at all."""


class NoFiles(InputError):
    """A path of the input matches no file."""


class NoFolder(InputError):
    """The folder of a path of the input is not there: the path is wrong, or a file system is not mounted."""


class UnopenedFile(InputError):
    """A file of the input cannot be opened: it is gone, or this user may not read it."""


class InputChanged(InputError):
    """A file of the input changed while it was read, so its rows are of no one content."""


class TooManyDeadLetters(InputError):
    """More rows than ``limits.max_dead_letters`` allows could not become groups."""


class NotJoined(InputError):
    """A run that is joined lacks candidates, and the recipe does not say what becomes of them."""


class StorageError(PolarRayError):
    """A path or an object store cannot be used."""


class NotShareable(StorageError):
    """A storage is not known to let only one of several processes create a file."""


class StorageFault(StorageError, OSError):
    """A storage did not do what was asked of it."""


class StorageAway(StorageFault):
    """A storage was away, full or read-only for longer than it is waited for."""


class StorageDenied(StorageFault, PermissionError):
    """A storage does not let this user read or write there."""


class OutputError(PolarRayError):
    """The output folder cannot be used for this run."""


class NotARun(OutputError):
    """The folder holds files, but no run of polar_ray."""


class OutputBusy(OutputError):
    """Another process is writing into the folder."""


class NotFinished(OutputError):
    """The run in the folder has not finished, so its score table is not complete."""


class RecipeChanged(OutputError):
    """The folder holds a run with another recipe, input or model; resuming would mix the two."""


class ScorerChanged(RecipeChanged):
    """The scorers are not those of the rewards that are there already, and rewards of two do not compare."""


class CheckpointError(PolarRayError):
    """A model's files are missing, incomplete, or not what the scorer needs."""


class TokenizerError(PolarRayError):
    """A tokenizer or a chat template cannot be used safely."""


class SelfCheckError(PolarRayError):
    """A scorer failed the check it makes of itself when it starts."""


class ScoringError(PolarRayError):
    """Scoring failed for every group, so the run stopped."""


class DeviceLost(ScoringError):
    """A device, or a process that holds a part of the model on one, cannot be used any more: start a new process."""


class ClusterUnreachable(PolarRayError):
    """There is no Ray cluster at the address, or it does not let this user in."""


class RayChanged(PolarRayError):
    """The installed version of Ray lacks something that polar_ray takes of it."""


class ClusterTooSmall(PolarRayError):
    """The actors that the recipe asks for do not fit on the Ray cluster."""


class RunStalled(PolarRayError):
    """The run made no progress for ``limits.no_progress_s`` seconds."""


class StateError(PolarRayError):
    """The record of what a curation has done, or of who works, is damaged, gone, or from a newer version."""


class LeaseLost(PolarRayError):
    """A process could not renew its lease, so another one may have taken over."""


class ConservationError(PolarRayError):
    """The counts of a run do not add up: rows read != groups + dead letters + declared drops."""
