"""All that polar_ray takes of Ray beyond its public interface, in one place, and the check that it is still there.

Ray may change any of it in any release, so ``pyproject.toml`` bounds the version to what the tests were run with.
"""

import inspect
import json
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any

import ray

from polar_ray.errors import RayChanged

if TYPE_CHECKING:
    from ray.data import Dataset


_STATUS = "__autoscaling_status"
"""Where an autoscaler of the first version leaves its status; one of the second tells it when it is asked."""


class Scaling(Enum):
    """What is known of a cluster's autoscaler."""

    NONE = "none"
    """There is none: the cluster's nodes are those that somebody starts."""
    SILENT = "silent"
    """It says nothing, if there is one."""
    GROWING = "growing"
    """It says that it is bringing nodes."""


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


def is_started_here() -> bool:
    """Whether the Ray that this process is connected to was started by it, so that no node will ever join."""
    from ray._private import worker

    return worker._global_node is not None and worker._global_node.is_head()


def scaling() -> Scaling:
    """Returns what the cluster's autoscaler, of either version, says of itself.

    What it could start it does not say beforehand: no autoscaler of open Ray reports its kinds of nodes. Where there is
    none, Ray's monitor reports in its stead and makes up a kind for each node, named after it.
    """
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.experimental.internal_kv import _internal_kv_get

    said = _internal_kv_get(_STATUS)
    if said is not None:
        report = json.loads(said).get("autoscaler_report") or {}
        growing = report.get("pending_launches") or report.get("pending_nodes")
        kinds = set(report.get("active_nodes") or ()) | set(report.get("idle_nodes") or ())
    else:
        status = get_cluster_status(ray.get_runtime_context().gcs_address)
        growing = status.pending_launches or status.pending_nodes
        # Version 0: none has reported yet, and what the nodes are called is no autoscaler's word.
        reported = str(status.stats.autoscaler_version or 0) != "0"
        kinds = {node.ray_node_type_name for node in [*status.active_nodes, *status.idle_nodes]} if reported else set()
    if growing:
        return Scaling.GROWING
    own = {f"node_{node['NodeID']}" for node in ray.nodes()}
    return Scaling.NONE if kinds and kinds <= own else Scaling.SILENT


def check_ray() -> None:
    """Checks that Ray has what this file takes of it, by names and signatures.

    Raises:
        RayChanged: It has not.
    """
    from ray.data import Dataset

    try:
        from ray._private import worker
        from ray._private.node import Node
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
        (_found(Node, "is_head"), ["self"]),
    ):
        found = list(inspect.signature(function).parameters)
        if found != wanted:
            raise _changed(f"{function.__qualname__} takes {found}, not {wanted}")
    if "_global_node" not in vars(worker):
        raise _changed(f"{worker.__name__}._global_node is gone")


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
