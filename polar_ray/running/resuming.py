"""Resuming: what a run that was interrupted keeps, and what of it is scored again."""

import math

from polar_ray.data.parts import run_parts
from polar_ray.data.sources import Source
from polar_ray.data.status import Status
from polar_ray.recipe.run import Limits
from polar_ray.running.folder import Commit, Removal, RunFolder
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
    those with errors where there are so many that the run would be given up at once. So are those whose parts are gone
    or have another size than when they were written.

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
    tally = Tally(todo.commits, inherited, config.layout)
    # A retry has looked by itself which of its parent's files can be opened now.
    unopened = tally.unopened if retrial is None else set()
    errors = {commit.split_id for commit in todo.commits if _has_failed(commit)} if tally.failed(limits) else set()
    damaged = _damaged(folder, todo)
    if unopened or errors or damaged:
        if damaged:
            reporter.say(f"{len(damaged):,} splits whose parts are gone or damaged are scored again")
        if errors:
            reporter.say(f"{len(errors):,} splits with errors, too many to go on with, are scored again")
        take_back(folder, job.files, unopened, config, changed=False, also=errors | damaged)
        forget(folder)
        todo = todo_of(config, sources, folder)
        tally = Tally(todo.commits, inherited, config.layout)
    return todo, tally


def _has_failed(commit: Commit) -> bool:
    return any(Status(status).has_failed for counts in commit.statuses.values() for status in counts)


def _damaged(folder: RunFolder, todo: Todo) -> set[str]:
    """Returns the committed splits whose parts are not what was written, as far as a listing tells."""
    written = {commit.split_id: commit.part_bytes for commit in todo.commits if commit.part_bytes}
    if not written:
        return set()
    removals: dict[str, Removal] = folder.read_records("duplicates", Removal)
    sizes = {info.path: info.size for info in run_parts(folder.storage)}
    return {
        split
        for split, size in written.items()
        # Who was about to take duplicates out may have been stopped before the part was shortened.
        if sizes.get(folder.part(split)) not in (size, size - (removals[split].part_bytes if split in removals else 0))
    }
