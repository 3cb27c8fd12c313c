"""Resuming: what a run that was interrupted keeps, and what of it is scored again."""

import math

from polar_ray.data.sources import Source
from polar_ray.data.status import Status
from polar_ray.recipe.run import Limits
from polar_ray.running.folder import Commit
from polar_ray.running.identity import Identity
from polar_ray.running.job import Job
from polar_ray.running.progress import Reporter
from polar_ray.running.retrial import Retrial
from polar_ray.running.taking_back import forget, take_back
from polar_ray.running.tally import Tally
from polar_ray.running.todo import Todo, todo_of


def limits_of(begun: Identity, limits: Limits) -> Limits:
    """Returns the limits of a run that was begun by this version, or by one that knew fewer of them.

    What such a run would have been allowed to finish with it may finish with still, unless a limit is given now.
    """
    if begun.limits_errors or "max_errors" in limits.model_fields_set:
        return limits
    return limits.model_copy(update={"max_errors": math.inf})


def resume(
    job: Job, sources: list[Source], limits: Limits, retrial: Retrial | None, reporter: Reporter
) -> tuple[Todo, Tally]:
    """Returns what is left of a run, and the sums of what it has.

    Of what it has, splits are taken back that may come out otherwise now: those of files that could not be opened, and
    those with errors where there are so many that the run would be given up at once.

    Args:
        job: What the run does.
        sources: Of its whole input.
        limits: When it gives up.
        retrial: In a retry, says what the generation before was.
        reporter: Is told what is scored again.
    """
    folder, config = job.folder, job.recipe.input
    inherited = {} if retrial is None else retrial.errors
    todo = todo_of(config, sources, folder)
    tally = Tally(todo.commits, inherited)
    # A retry has looked by itself which of its parent's files can be opened now.
    unopened = tally.unopened if retrial is None else set()
    errors = {commit.split_id for commit in todo.commits if _has_failed(commit)} if tally.failed(limits) else set()
    if unopened or errors:
        if errors:
            reporter.say(f"{len(errors):,} splits with errors, too many to go on with, are scored again")
        take_back(folder, job.files, unopened, config, changed=False, also=errors)
        forget(folder)
        todo = todo_of(config, sources, folder)
        tally = Tally(todo.commits, inherited)
    return todo, tally


def _has_failed(commit: Commit) -> bool:
    return any(Status(status).has_failed for counts in commit.statuses.values() for status in counts)
