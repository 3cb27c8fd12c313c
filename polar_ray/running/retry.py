"""Retry: scores again what failed in a run, into the next generation of its score table."""

import json
from typing import Any

from polar_ray.data.damage import can_be_opened
from polar_ray.data.dead_letters import UNOPENED
from polar_ray.data.generations import generation, newest, run_of
from polar_ray.data.listing import InputFile, input_file
from polar_ray.data.one_writer import one_writer
from polar_ray.data.parts import check_parts, run_parts
from polar_ray.data.scores import LISTED
from polar_ray.data.storage import FileInfo, Storage
from polar_ray.errors import InputError, NotARun, RecipeChanged, RecipeError
from polar_ray.recipe.overrides import apply_overrides
from polar_ray.recipe.paths import mistake_in
from polar_ray.recipe.recipe import Recipe
from polar_ray.recipe.run import STORAGE_WAIT_S
from polar_ray.recipe.scorers import Custom
from polar_ray.recipe.secrets import is_masked
from polar_ray.running.folder import RECORDS, RUN, RunFolder
from polar_ray.running.identity import describe
from polar_ray.running.inputs import input_files
from polar_ray.running.manifest import Manifest, read_manifest
from polar_ray.running.parent import parent_of
from polar_ray.running.progress import Reporter, Silent
from polar_ray.running.retrial import Retrial
from polar_ray.running.run import score
from polar_ray.running.tally import Tally


def retry(
    run: str,
    overrides: list[str] | None = None,
    *,
    allow_changed: bool = False,
    fresh: bool = False,
    reporter: Reporter | None = None,
) -> Manifest:
    """Scores again what has no score in the newest generation of a run, and what was a dead letter.

    The next generation is a whole run folder, ``RUN/generations/2`` for the first retry. Groups with all their scores
    keep them bit for bit. Scored again are groups with a candidate that is ``error``, ``crashed``, ``timeout`` or
    ``non_finite`` (``too_long``, ``truncated`` and ``unsupported`` where the scorer's settings changed), groups whose
    content changed, and rows that are no dead letters any more. A file is read anew when its size or modification time
    changed. Files that are new since are left to a run of their own. Interrupted, the same call goes on.

    Args:
        run: The output folder of a finished run.
        overrides: Changes of the recipe that the run's manifest holds, such as ``scorer.timeout_s=60``. Storage
            options are not in a manifest: give those of the input and the output here, or in the environment. Nor are
            the settings of a custom scorer, unless they are public or read from the environment.
        allow_changed: The scorer may have changed since.
        fresh: Delete an unfinished generation first.
        reporter: Is told how it goes; nobody by default.

    Returns:
        The new generation's manifest, or that of the newest one where there is nothing to do.

    Raises:
        NotARun: There is no run, or the score table is that of a curation's version.
        NotFinished: The run has not finished.
        OutputBusy: Somebody else writes into the run.
        RecipeChanged: The scorer changed, or an unfinished retry was begun with other settings.
        InputError: A file of the run's input is gone.
    """
    reporter = reporter or Silent()
    first = first_generation(run, overrides)
    root, options = first.path, first.options
    folder, number = newest(root, options, first.wait_s)
    parent = RunFolder.of(folder, options, first.wait_s)
    manifest = read_manifest(parent)
    if parent.storage.is_file(parent.join(LISTED)):
        raise NotARun(
            f"{parent.path} is the score table of a curation's version, whose parts belong to several runs; retry "
            "those, in runs/ of the curation's output folder, and its next tick takes over what they give"
        )
    check_parts(parent.storage, run_parts(parent.storage))
    target = RunFolder.of(generation(root, number + 1), options, first.wait_s)
    output = {"path": target.path, "storage_options": options}
    held = {**manifest.recipe, "input": {**manifest.recipe["input"], "storage_options": {}}, "output": output}
    if manifest.parent is not None:
        # The very table that the scorers were added to, though it may have a newer generation.
        run, number_of = run_of(manifest.parent.path, recipe_options(overrides, "input"), first.wait_s)
        held["input"]["path"] = manifest.parent.path if number_of is not None else f"{run}/generations/1"
    elif any(mistake_in(path) for path in _as_list(held["input"]["path"])):
        # Such as the empty path, which an earlier version took for the working folder of that time.
        held["input"]["path"] = [str(file["path"]) for file in manifest.inputs]
    before = Recipe.of(held).without_credentials()
    # Where it goes is the run's affair.
    recipe = Recipe.of(held, [*(overrides or []), f"output.path={json.dumps(target.path)}"])
    _check_unmasked(recipe, parent.path)
    if _kinds(recipe) != _kinds(before):
        raise RecipeChanged(
            f"{parent.path} was scored by {_kinds(before)}, and rewards of {_kinds(recipe)} do not compare "
            "with those; score with another scorer into another output.path"
        )
    unopened = _unopened(parent, manifest)
    files, new = _files(recipe, first, manifest, unopened)
    recorded = {str(file["path"]): {key: file[key] for key in file if key != "path"} for file in manifest.inputs}
    retrial = Retrial(
        parent=parent,
        manifest=manifest,
        number=number + 1,
        changed=frozenset(
            file.path
            for file in files
            if describe(file) != recorded[file.path] or (file.path in unopened and _opens(file, recipe))
        ),
        replanned=_layout(recipe) != _layout(before),
        allow_changed=allow_changed,
    )
    if new:
        reporter.say(
            f"{new:,} files are new since the run; they are not in its table: score them in a run of their own"
        )
    now = recipe.without_credentials()
    differing = {name: before.named_scorers.get(name) != scorer for name, scorer in now.named_scorers.items()}
    if not retrial.has_work(differing, recipe.input):
        reporter.say(f"{parent.path} has no failed scores, no dead letters that would be read now; nothing to do")
        return manifest
    parent_run = parent_of(recipe)
    # Of the whole run: whoever starts it over would delete this generation too.
    with one_writer(first.storage, RECORDS, RUN) as lease:
        fresh = fresh and target.is_run()
        made = score(recipe, parent_run, target, files, lease, fresh=fresh, reporter=reporter, retrial=retrial)
    if all(made.counts[name] == manifest.counts[name] for name in ("statuses", "dead_letters", "groups")):
        reporter.say(
            f"the retry changed nothing: generation {number + 1} has as many scores, failures and dead letters as the "
            "one before; mend their cause before another retry"
        )
    return made


def first_generation(run: str, overrides: list[str] | None = None) -> RunFolder:
    """Returns the folder of the run that a path belongs to, which may be that of one of its generations."""
    options = recipe_options(overrides, "output")
    # The recipe, and with it the limit, is what is about to be read.
    given = apply_overrides({}, overrides or []).get("limits", {}).get("storage_wait_s")
    wait_s = given if isinstance(given, int | float) else STORAGE_WAIT_S
    return RunFolder.of(run_of(run, options, wait_s)[0], options, wait_s)


def recipe_options(overrides: list[str] | None, part: str) -> dict[str, Any]:
    """Returns the storage options of the input or the output that overrides give."""
    options: dict[str, Any] = apply_overrides({}, overrides or []).get(part, {}).get("storage_options", {})
    return options


def _check_unmasked(recipe: Recipe, run: str) -> None:
    """Says which settings of custom scorers have to be given anew, since a manifest holds no secrets."""
    for name, scorer in recipe.named_scorers.items():
        if not isinstance(scorer, Custom):
            continue
        where = f"scorers.{name}.settings" if name else "scorer.settings"
        if masked := [key for key, value in scorer.settings.items() if is_masked(value)]:
            raise RecipeError(
                f"the manifest of {run} holds no secrets, and so not the values of {', '.join(masked)} in {where}: "
                f"give them anew, as {where}.{masked[0]}=… or, from the environment, as "
                f"{where}.{masked[0]}='{{env: NAME}}'"
            )


def _unopened(parent: RunFolder, manifest: Manifest) -> frozenset[str]:
    """The files that could not be opened when they were to be read."""
    if UNOPENED not in manifest.counts["dead_letters"]:
        return frozenset()
    return frozenset(Tally(parent.read_commits().values()).unopened)


def _opens(file: InputFile, recipe: Recipe) -> bool:
    return can_be_opened(Storage.of(file.path, recipe.input.storage_options), file.path)


def _as_list(path: str | list[str]) -> list[str]:
    return [path] if isinstance(path, str) else path


def _files(
    recipe: Recipe, first: RunFolder, manifest: Manifest, unopened: frozenset[str]
) -> tuple[list[InputFile], int]:
    """Returns the files of the run's input as they are now, in its order, and how many others there are."""
    wanted = [str(file["path"]) for file in manifest.inputs]
    try:
        found = input_files(recipe, first, wanted)
    except InputError:
        # A relative path means another place in another working directory, and what has come into a folder since, of
        # whatever format, is none of this run's.
        named = recipe.input.model_copy(update={"path": wanted})
        found = input_files(recipe.model_copy(update={"input": named}), first, wanted)
    listed = {file.path: file for file in found}
    for entry in manifest.inputs:
        # What could not be read then need not be there now: it stays a dead letter.
        if (path := str(entry["path"])) in unopened and path not in listed:
            mtime = float(entry["mtime"]) if "mtime" in entry else None
            info = FileInfo(path, int(entry["size"]), entry.get("etag"), mtime)
            listed[path] = input_file(info, recipe.input)
    gone = [path for path in wanted if path not in listed]
    if gone:
        raise InputError(
            f"{len(gone)} files of the run's input are not there any more, {gone[0]} among them; put them back: a "
            "retry reads from them what it scores again"
        )
    return [listed[path] for path in wanted], len(listed) - len(wanted)


def _layout(recipe: Recipe) -> dict[str, Any]:
    return recipe.input.model_dump(mode="json", exclude={"path", "storage_options"})


def _kinds(recipe: Recipe) -> str:
    """What kinds of scorers a recipe has, by their names."""
    return ", ".join(f"{name}: {scorer.kind}" if name else scorer.kind for name, scorer in recipe.named_scorers.items())
