"""All that polar_ray takes of Ray beyond its public interface, in one place, and the check that it is still there.

Ray may change any of it in any release, so ``pyproject.toml`` bounds the version to what the tests were run with.
"""

import inspect
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray

from polar_ray.errors import RayChanged

if TYPE_CHECKING:
    from ray.data import Dataset


_STATUS = "__autoscaling_status"
"""Where an autoscaler of the first version leaves its status; one of the second tells it when it is asked."""


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


def start_in(folder: str, **settings: Any) -> None:
    """Starts Ray inside this process with its files in a folder.

    Args:
        folder: Is made; its path is short enough for the sockets in it.
        settings: Those of ``ray.init``.

    Raises:
        RayChanged: Ray no longer takes a folder.
    """
    try:
        ray.init(address="local", _temp_dir=folder, **settings)
    except RuntimeError as error:
        if "_temp_dir" in str(error):
            raise _changed("ray.init takes no _temp_dir") from error
        raise


def is_growing() -> bool:
    """Whether the cluster's autoscaler, of either version, says that it is bringing nodes; False where there is none.

    What it could start it does not say beforehand: no autoscaler of open Ray reports its kinds of nodes.
    """
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.experimental.internal_kv import _internal_kv_get

    said = _internal_kv_get(_STATUS)
    if said is not None:
        report = json.loads(said).get("autoscaler_report") or {}
        return bool(report.get("pending_launches") or report.get("pending_nodes"))
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    return bool(status.pending_launches or status.pending_nodes)


def check_ray() -> None:
    """Checks that Ray has what this file takes of it, by names and signatures.

    Raises:
        RayChanged: It has not.
    """
    from ray.data import Dataset

    try:
        from ray.autoscaler.v2.sdk import get_cluster_status
        from ray.data._internal.execution.streaming_executor import StreamingExecutor
        from ray.experimental.internal_kv import _internal_kv_get
    except ImportError as error:
        raise _changed(str(error)) from error

    for function, wanted in (
        (_found(Dataset, "_create_executor"), ["self"]),
        (_found(StreamingExecutor, "shutdown"), ["self", "force", "exception"]),
        (_internal_kv_get, ["key", "namespace"]),
        (get_cluster_status, ["gcs_address", "timeout"]),
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
