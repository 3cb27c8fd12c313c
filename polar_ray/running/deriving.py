"""Deriving on a Ray cluster: the units of the score table as Ray tasks, to the same bytes as on one machine; and what
a run derives from its own score table."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from polar_ray.deriving.derive import Progress, derive
from polar_ray.deriving.derived_folder import WAY_ON, DerivedFolder, DerivedManifest
from polar_ray.errors import PolarRayError, RecipeChanged
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.recipe.recipe import Recipe
from polar_ray.recipe.run import Compute
from polar_ray.running.cluster import connected

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING = 2
"""Tasks per worker that are under way or whose results wait for their turn: this bounds the memory."""


@dataclass(frozen=True)
class RayTasks:
    """Ray tasks, each of which takes a CPU.

    Attributes:
        count: At a time; None takes as many as the cluster has CPUs now.
    """

    count: int | None = None

    def over(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yields the result of each item, in order; a PolarRayError of the function is raised as it is."""
        count = self.count or max(1, int(ray.cluster_resources().get("CPU", 1)))
        task = ray.remote(num_cpus=1)(_call)
        # The function holds the recipe: it is sent once, not with every item.
        shared = ray.put(function)
        waiting: deque[Any] = deque()
        try:
            for item in items:
                waiting.append(task.remote(shared, item))
                if len(waiting) == WAITING * count:
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        finally:
            for ref in waiting:
                ray.cancel(ref)


def derive_on_ray(recipe: DeriveRecipe, *, fresh: bool = False, progress: Progress | None = None) -> DerivedManifest:
    """Derives the recipe's dataset as ``derive`` does, by tasks on a Ray cluster.

    The cluster is the one that this process is connected to, else that at ``compute.address`` or ``RAY_ADDRESS``, else
    Ray starts inside this process.

    Raises:
        ClusterUnreachable: There is no Ray at the address.
        PolarRayError: As ``derive``.
    """
    with connected(Compute(address=recipe.compute.address)):
        return derive(recipe, fresh=fresh, progress=progress, workers=RayTasks(recipe.compute.processes))


def derive_all(recipe: Recipe, say: Callable[[str], None]) -> None:
    """Makes what the recipe derives from its score table and what is not there yet; Ray is connected.

    Raises:
        RecipeChanged: A folder holds a dataset that was derived by another recipe.
        PolarRayError: As ``derive``.
    """
    for name, derivation in recipe.derivations.items():
        folder = DerivedFolder.of(derivation.output, derivation.limits.storage_wait_s)
        if not folder.is_finished():
            say(f"deriving {name}")
        try:
            derive(derivation, workers=RayTasks(derivation.compute.processes))
        except RecipeChanged as error:
            raise RecipeChanged(
                f"derive.{name}: {str(error).removesuffix(WAY_ON)}. The score table is finished and kept; delete that "
                f"folder, or give derive.{name}.output.path another one, and run the same command again"
            ) from error


def _call(function: Callable[[Item], Result], item: Item) -> Result:
    return function(item)


def _result(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PolarRayError):
            raise error.cause from None
        raise
