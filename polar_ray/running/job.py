"""The job: what a run does, decided before its first pass and the same for all of them."""

from dataclasses import dataclass

from polar_ray.data.lease import Fence
from polar_ray.data.listing import InputFile
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.folder import RunFolder
from polar_ray.running.keep import Keep


@dataclass(frozen=True)
class Job:
    """A recipe with what was found out about it.

    Attributes:
        recipe: What to read, how to score it, where to write.
        folder: The output folder.
        files: The input's files, sorted.
        fingerprints: By scorer, all that can change a score.
        fence: Held up against what helpers of an earlier attempt, which is dead, may still write.
        keep: In a retry, takes out the groups that have their scores.
    """

    recipe: Recipe
    folder: RunFolder
    files: tuple[InputFile, ...]
    fingerprints: dict[str, dict[str, str]]
    fence: Fence | None = None
    keep: Keep | None = None
