"""What the files of a checkpoint may hold instead of what they should: one sentence in place of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

from polar_ray.errors import CheckpointError, PolarRayError

MALFORMED = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError),
    # Too deep, an operation that torch refuses, a setting that transformers refuses.
    *(RecursionError, RuntimeError, StrictDataclassError),
)
"""What is raised where a file's content is not of the kind that its format has: a list for a name, an id of -1, …."""


@contextmanager
def damage_of(where: Path, kind: type[PolarRayError] = CheckpointError) -> Iterator[None]:
    """Says of whatever is raised while files are made into something that the files are not what they should be.

    Files of a checkpoint come from elsewhere, are cut short by full disks and edited by hand; to check each value of
    each of them before it is used would be to write their formats' readers again.

    Args:
        where: The file or the folder.
        kind: What is raised.

    Raises:
        PolarRayError: Of this kind; one that was raised inside goes through.
    """
    try:
        yield
    except MALFORMED as error:
        raise kind(
            f"{where} is damaged, or not what a model of this kind has ({type(error).__name__}: {_short(error)}). "
            "Download it again."
        ) from error
    except BaseException as error:
        # The tokenizers library, which is written in Rust, panics over some files; its exception cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise kind(
            f"{where} cannot be used: the tokenizers library gave up ({_short(error)}). Download it again."
        ) from (error)


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:300] + " …"
