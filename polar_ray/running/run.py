"""The main job: score a dataset of generations, resumably."""

import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from datetime import datetime, timezone

import msgspec

from polar_ray.data.generations import run_of
from polar_ray.data.lease import Lease
from polar_ray.data.lines import READING
from polar_ray.data.listing import InputFile
from polar_ray.data.one_writer import LEASE_S, one_writer
from polar_ray.data.parts import check_parts, run_parts
from polar_ray.data.sources import plan_sources
from polar_ray.errors import InputChanged, InputError, OutputError, PolarRayError, ScoringError
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.clearing import check_clearable
from polar_ray.running.clock import ScoringClock
from polar_ray.running.cluster import connected
from polar_ray.running.derivations import are_derived, check_derivations, clear_derivations
from polar_ray.running.deriving import derive_all
from polar_ray.running.duplicates import check_removed, remove_duplicates
from polar_ray.running.establish import establish
from polar_ray.running.fingerprints import fingerprints_of
from polar_ray.running.finished import finished
from polar_ray.running.folder import RECORDS, RUN, RunFolder
from polar_ray.running.identity import Identity, describe, versions
from polar_ray.running.inputs import GONE, changed_files, checked_files, no_rows, of_this_job_only, refuse_unopened
from polar_ray.running.job import Job
from polar_ray.running.manifest import Manifest, conservation_of, counts_of, read_manifest
from polar_ray.running.parent import Parent, parent_of
from polar_ray.running.passes import Passes
from polar_ray.running.progress import Reporter, Silent
from polar_ray.running.ray_private import check_ray
from polar_ray.running.resuming import limits_of, resume
from polar_ray.running.retrial import Retrial
from polar_ray.running.taking_back import take_back
from polar_ray.running.tally import Tally
from polar_ray.running.verified import failed, verification_line, verification_of

LEFTOVER_S = 600
"""Seconds after which a half-written file was left by a writer that is dead: no write takes as long."""
FingerprintCheck = Callable[[dict[str, dict[str, str]]], None]


def run(
    recipe: Recipe,
    *,
    fresh: bool = False,
    reporter: Reporter | None = None,
    files: list[InputFile] | None = None,
    lease_s: float = LEASE_S,
    check: FingerprintCheck | None = None,
) -> Manifest:
    """Scores the recipe's input into its output folder and returns the manifest.

    Splits that an earlier attempt committed are kept, so running an interrupted recipe again finishes it, and
    running a finished one again does nothing. What the recipe derives from the score table is made when that is
    finished, unless it is there already.

    Args:
        recipe: What to read, how to score it, where to write.
        fresh: Delete the run in the output folder first.
        reporter: Is told how the run goes; nobody by default.
        files: The input as ``checked_files`` gave it just now, where it was listed before Ray was loaded.
        lease_s: Seconds after which a run that no longer says that it works there counts as dead.
        check: Is given the fingerprints of the scorers, by name, before anything is scored, and may raise.

    Raises:
        OutputBusy: Another run writes into the output folder.
        PolarRayError: See ``polar_ray.errors``; splits committed so far stay, unless the error is about the recipe.

    Example:
        >>> manifest = run(Recipe.load("pipelines/demo.yaml"))
        >>> manifest.counts["groups"]
        40
    """
    reporter = reporter or Silent()
    if (notice := of_this_job_only(recipe.input)) is not None:
        reporter.say(notice)
    parent = parent_of(recipe)
    check_derivations(recipe, parent)
    folder = RunFolder.of(recipe.output.path, recipe.output.storage_options, recipe.limits.storage_wait_s)
    of, number = run_of(folder.path, folder.options, folder.wait_s)
    if number is not None:
        raise OutputError(
            f"{folder.path} is the place of a retry of the run in {of}, which is what reads of it would give; give "
            "another output.path"
        )
    if files is None:
        files = checked_files(recipe, folder, fresh=fresh)
    there = None if fresh else finished(recipe, parent, folder, files)
    if there is not None:
        reporter.say(_nothing_to_do(folder))
        # Without Ray where all is there: it is only made sure that it is this recipe's. Nothing is left to be scored
        # in any case, so whether there is room for the scorers does not matter.
        with nullcontext() if are_derived(recipe) else connected(recipe.compute):
            derive_all(recipe, reporter.say)
        return there
    with ExitStack() as stack:
        lease = None
        if fresh or not folder.is_finished():
            # Before Ray starts: whoever comes second is to hear of it at once. What is finished is only looked at.
            lease = stack.enter_context(one_writer(folder.storage, RECORDS, RUN, lease_s))
        if not recipe.derive:
            return score(recipe, parent, folder, files, lease, fresh=fresh, reporter=reporter, check=check)
        with connected(recipe.compute):
            manifest = score(recipe, parent, folder, files, lease, fresh=fresh, reporter=reporter, check=check)
            derive_all(recipe, reporter.say)
    return manifest


def score(
    recipe: Recipe,
    parent: Parent | None,
    folder: RunFolder,
    files: list[InputFile],
    lease: Lease | None,
    *,
    fresh: bool,
    reporter: Reporter,
    retrial: Retrial | None = None,
    check: FingerprintCheck | None = None,
) -> Manifest:
    """Scores files into a folder; see ``run``.

    Args:
        recipe: How to score.
        parent: The run whose score table these files are, where scorers are added to one.
        folder: The output folder.
        files: The input's files.
        lease: Keeps others out of the folder; None where the run in it is finished, and only looked at.
        fresh: Delete the run in the folder first.
        reporter: Is told how it goes.
        retrial: In a retry, says what need not be scored again.
        check: As of ``run``.
    """
    started, started_at = time.monotonic(), _now()
    check_ray()
    if lease is not None:
        # From here on nothing in the folder is changed by a process that was asleep while another one took over.
        folder = folder.guarded(lease.check_lately)
    with connected(recipe.compute) as cluster:
        sized = cluster.pools(
            recipe.compute,
            list(recipe.named_scorers.values()),
            wait_s=recipe.limits.wait_for_nodes_s,
            say=reporter.say,
        )
        fence = None if lease is None else lease.fence
        job = Job(recipe, folder, tuple(files), fingerprints_of(recipe, sized), fence)
        if retrial is not None:
            retrial.check(job.fingerprints)
        if check is not None:
            check(job.fingerprints)
        fingerprints = {**(parent.fingerprints if parent is not None else {}), **job.fingerprints}
        if fresh:
            check_clearable(folder)
            if retrial is None:
                clear_derivations(recipe, folder.guard)
        planned = READING if retrial is None else retrial.reading
        begun = establish(folder, Identity.of(recipe, files, fingerprints, planned), fresh=fresh)
        if lease is None or folder.is_finished():
            check_parts(folder.storage, run_parts(folder.storage))
            reporter.say(_nothing_to_do(folder))
            return read_manifest(folder)
        folder.storage.sweep(folder.path, older_than_s=LEFTOVER_S)
        if retrial is not None:
            job = retrial.prepare(job, reporter)
        sources = plan_sources(files, recipe.input, recipe.limits.storage_wait_s, reading=begun.reading)
        limits = limits_of(begun, recipe.limits)
        refuse_unopened(sources, limits)
        todo, tally = resume(job, sources, limits, retrial, reporter)
        resumed = tally.splits
        if resumed and retrial is None:
            reporter.say(f"resuming: {resumed} splits with {tally.candidates:,} candidates are done")
        clock = ScoringClock(tally)
        reporter.begin(todo.done_share)
        try:
            Passes(job, cluster, limits, todo, tally, clock, lease, reporter).until_nothing_is_left(sized)
        except (InputError, ScoringError) as error:
            # Rows that are missing or make no sense may be those of two contents of one file.
            lease.check()
            _refuse_changed(job, tally, retrial, error)
            raise
        finally:
            reporter.end()
    lease.check()
    _refuse_changed(job, tally, retrial)
    _refuse_empty(job, tally)
    todo.check_complete(folder)
    row_per_candidate = recipe.input.layout != "groups"
    for removal in remove_duplicates(folder, todo.commits, row_per_candidate=row_per_candidate):
        tally.subtract(removal)
    check_removed(folder, todo.commits)
    # Only now are all dead letters known: what counts as too many must not depend on how the input was split.
    tally.check(limits, final=True)
    manifest = Manifest(
        recipe=recipe.without_credentials().model_dump(mode="json"),
        inputs=[{"path": file.path, **describe(file)} for file in files],
        fingerprints=fingerprints,
        counts=counts_of(tally) if parent is None else parent.with_counts(counts_of(tally)),
        conservation=conservation_of(tally),
        started=started_at,
        finished=_now(),
        duration_s=round(time.monotonic() - started, 3),
        scoring_s=round(clock.seconds, 3),
        throughput=clock.throughput(),
        resumed_splits=resumed,
        stage_seconds={stage: round(seconds, 3) for stage, seconds in tally.seconds.items()},
        versions=versions(),
        parent=parent.origin if parent is not None else None,
        stages=clock.stages(tally),
        startup_s=round(clock.startup, 3),
        verification=verification_of(recipe, tally.verified),
        generation=retrial.record(fingerprints, folder, tally) if retrial is not None else None,
    )
    for name, entry in manifest.verification.items():
        if failed(entry):
            reporter.say(verification_line(name, entry))
    lease.check()
    # Every split is committed, so what killed writers left belongs to nobody.
    folder.storage.sweep(folder.path)
    folder.storage.write_atomic(folder.manifest, msgspec.json.format(msgspec.json.encode(manifest)))
    reporter.done(tally, manifest.throughput["candidates_per_s"], manifest.throughput["tokens_per_s"])
    return manifest


def _refuse_changed(job: Job, tally: Tally, retrial: Retrial | None, cause: PolarRayError | None = None) -> None:
    """Makes sure that every file that was read is what it was before.

    Raises:
        InputChanged: One is not; its splits were taken back, and the next attempt reads it as it is then.
    """
    config = job.recipe.input
    changed = {
        path: how
        for path, how in changed_files(job.files, job.recipe, job.folder).items()
        # That the rest of a file is gone is allowed, and so is another content of one that was never read.
        if path not in tally.unopened or (how != GONE and path in tally.opened)
    }
    if not changed:
        return
    also = retrial.removals if retrial is not None else ()
    take_back(job.folder, job.files, changed.keys(), config, changed=True, also=also)
    path = min(changed)
    more = f", and {len(changed) - 1} more files changed" if len(changed) > 1 else ""
    raise InputChanged(
        f"{path} changed while it was read: {changed[path]}{more}. What was scored of it is taken back; once it is "
        "there and nothing writes to it, run the same command again, which reads it anew and keeps the rest"
    ) from cause


def _refuse_empty(job: Job, tally: Tally) -> None:
    """Stops a run whose input holds nothing, unless the recipe allows that; once there are rows, it goes on.

    Raises:
        InputError: There was not one row but blank lines.
    """
    if tally.rows > sum(tally.drops.values()) or job.recipe.limits.allow_empty:
        return
    take_back(job.folder, job.files, [file.path for file in job.files], job.recipe.input, changed=True)
    raise no_rows(job.files)


def _nothing_to_do(folder: RunFolder) -> str:
    return f"{folder.path} holds this run, finished; nothing to do (--fresh starts over)"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
