"""What went wrong in a pass: from what Ray raises to the one error that a user should see."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.data.exceptions import ExecutionTimeoutError, SystemException

from polar_ray.errors import PolarRayError, RunStalled, ScoringError


class PassLost(Exception):
    """The pass cannot finish, but what is left of the run can be tried again."""


class StageFailed(Exception):
    """What a stage raised. Ray Data writes advice into the exceptions that pass through it; here it finds room.

    Attributes:
        error: What the user should see.
    """

    def __init__(self, error: PolarRayError) -> None:
        super().__init__(str(error))
        self.error = error

    def __reduce__(self) -> tuple[type["StageFailed"], tuple[PolarRayError]]:
        return StageFailed, (self.error,)


@contextmanager
def stage(name: str, what: str) -> Iterator[None]:
    """Says which stage failed, and on what.

    Raises:
        StageFailed: With the PolarRayError that was raised, or a ScoringError about any other exception.
    """
    try:
        yield
    except PolarRayError as error:
        raise StageFailed(error) from error
    except ray.exceptions.RayError:
        # Ray's own affairs, such as a node that was lost: the driver knows what they mean.
        raise
    except Exception as error:
        # Whatever it is, it travels as text: not every exception survives the way to the driver.
        text = f"{name} failed on {what}: {type(error).__name__}: {error}"
        raise StageFailed(ScoringError(text)) from error


def explain(error: BaseException) -> BaseException:
    """Returns the error that a user should see for what Ray raised, or PassLost where another pass may do better."""
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, StageFailed):
            return cause.error
        if isinstance(cause, PolarRayError) and not isinstance(cause, ray.exceptions.RayError):
            return cause
    for cause in chain:
        if isinstance(cause, ExecutionTimeoutError):
            return RunStalled(
                f"no split moved on for limits.no_progress_s seconds: {str(cause).splitlines()[0]} "
                "The committed splits are kept; look at the cluster (ray status), then run the same command again"
            )
    lost = (
        ray.exceptions.NodeDiedError,
        ray.exceptions.ObjectLostError,
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.OwnerDiedError,
    )
    if any(isinstance(cause, lost) for cause in chain):
        return PassLost(str(error).splitlines()[0])
    root = next((cause for cause in chain if not isinstance(cause, ray.exceptions.RayError)), error)
    return ScoringError(f"the pipeline failed: {type(root).__name__}: {root}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and what caused it, through Ray's wrappers, the innermost last."""
    seen: set[int] = set()
    pending: list[object] = [error]
    while pending:
        current = pending.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        # Ray Data raises from an empty SystemException to shorten its own traceback.
        if not isinstance(current, SystemException):
            yield current
        # RayTaskError keeps the original in `cause`, ActorDiedError keeps a RayTaskError as its argument.
        inner = current.cause if isinstance(current, ray.exceptions.RayTaskError) else None
        pending += [inner, *current.args, current.__cause__, current.__context__]
