"""All that polar_ray takes of Ray beyond its public interface, in one place, and the check that it is still there.

Ray may change any of it in any release, so ``pyproject.toml`` bounds the version to what the tests were run with.
"""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray

from polar_ray.errors import RayChanged

if TYPE_CHECKING:
    from ray.data import Dataset


class Execution:
    """The execution of a dataset, which can be stopped from outside.

    Ray Data has no public way to stop one that another thread iterates over, and after an error it lets its actors
    finish what they are at: one that hangs never does, and keeps its GPU from the next pass.

    Args:
        dataset: Is not executed yet.
    """

    def __init__(self, dataset: "Dataset") -> None:
        self._executor: Any = None
        create = dataset._create_executor

        def keep() -> Any:
            self._executor = executor = create()
            shut_down = executor.shutdown

            def shutdown(force: bool, exception: Exception | None = None) -> None:
                shut_down(force=force or exception is not None, exception=exception)

            executor.shutdown = shutdown
            return executor

        # An attribute of this object; it travels to no worker.
        dataset._create_executor = keep

    def stop(self) -> None:
        """Ends the execution and its actors on the spot; nothing happens where there is none, or it is over."""
        if self._executor is not None:
            self._executor.shutdown(force=True)
            self._executor = None


def node_types() -> list[dict[str, float]] | None:
    """Returns the resources of each kind of node that the cluster's autoscaler may start; None without autoscaler."""
    config = ray._private.state.state.get_cluster_config()
    if config is None:
        return None
    return [dict(group.resources) for group in config.node_group_configs]


def check_ray() -> None:
    """Checks that Ray has what this file takes of it, by names and signatures.

    Raises:
        RayChanged: It has not.
    """
    from ray.data import Dataset
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

    for function, wanted in (
        (_found(Dataset, "_create_executor"), ["self"]),
        (_found(StreamingExecutor, "shutdown"), ["self", "force", "exception"]),
        (_found(ray._private.state.GlobalState, "get_cluster_config"), ["self"]),
    ):
        found = list(inspect.signature(function).parameters)
        if found != wanted:
            raise _changed(f"{function.__qualname__} takes {found}, not {wanted}")


def _found(owner: type, name: str) -> Callable[..., Any]:
    function = vars(owner).get(name)
    if not inspect.isfunction(function):
        raise _changed(f"{owner.__name__}.{name} is gone")
    return function


def _changed(what: str) -> RayChanged:
    return RayChanged(
        f"Ray {ray.__version__} is not what polar_ray was tested with ({what}); install a version that pyproject.toml "
        "allows, such as 2.60"
    )
