"""The command line: ``polar-ray run | plan | show | retry | derive | report | curate | env``."""

import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from polar_ray import __version__
from polar_ray.errors import PolarRayError, RecipeError
from polar_ray.terminal import print_traceback, say

if TYPE_CHECKING:
    from polar_ray.recipe.run import Limits
    from polar_ray.running.manifest import Manifest

app = typer.Typer(
    name="polar-ray",
    help="Score LLM generations with reward models on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipePath = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe, such as pipelines/demo.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as input.path=s3://bucket/*.parquet."),
]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="The output folder of a run.")]


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the run in the output folder first.")] = False,
    show: Annotated[int, typer.Option("--show", help="Show this many ranked groups at the end.")] = 0,
    verify: Annotated[
        float | None,
        typer.Option("--verify", metavar="SHARE", help="Score this share of the groups again, plainly, and compare."),
    ] = None,
) -> None:
    """Score a dataset of generations. The same command again resumes an interrupted run.

    The exit code is 1 where verification found rewards beyond the tolerance, and where more candidates have errors than
    limits.max_errors allows; the score table is whole all the same.
    """
    from polar_ray.data.scores import sample
    from polar_ray.recipe.recipe import Recipe
    from polar_ray.running.folder import RunFolder
    from polar_ray.running.inputs import checked_files

    wanted = [] if verify is None else [f"verify={verify}"]
    resolved = Recipe.load(recipe, [*(overrides or []), *wanted])
    output = resolved.output
    folder = RunFolder.of(output.path, output.storage_options, resolved.limits.storage_wait_s)
    files = checked_files(resolved, folder, fresh=fresh)
    there = not fresh and folder.is_finished()
    # Ray takes a second to load, and is not needed to say that a recipe or its input is wrong.
    from polar_ray.running.progress import reporter
    from polar_ray.running.run import run as run_recipe
    from polar_ray.running.verified import failed
    from polar_ray.showing import print_derived, print_groups, print_manifest

    manifest = run_recipe(resolved, fresh=fresh, reporter=reporter(), files=files)
    if show:
        print_groups(sample(resolved.output.path, show, storage_options=resolved.output.storage_options))
    print_manifest(manifest, resolved.output.path, options=resolved.output.storage_options, timed=not there)
    print_derived(resolved)
    if any(failed(entry) for entry in manifest.verification.values()):
        raise typer.Exit(1)
    _end_badly_on_errors(manifest, resolved.limits)


@app.command()
def plan(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Show what a run would do: recipe, input, sample counts, the first encoded candidate. Writes nothing."""
    from polar_ray.recipe.recipe import Recipe
    from polar_ray.running.plan import plan as plan_recipe
    from polar_ray.showing import print_plan

    made = plan_recipe(Recipe.load(recipe, overrides))
    print_plan(made)
    if made.refusal is not None:
        raise made.refusal


@app.command()
def show(
    run: RunPath, groups: Annotated[int, typer.Option("--groups", "-n", help="Ranked groups to show.")] = 3
) -> None:
    """Show a finished run: the manifest's figures and a few groups with their candidates in ranked order."""
    from polar_ray.data.generations import newest
    from polar_ray.data.scores import LISTED, sample
    from polar_ray.running.folder import RunFolder
    from polar_ray.running.manifest import read_manifest
    from polar_ray.showing import print_groups, print_manifest

    folder = RunFolder.of(newest(run)[0])
    manifest = read_manifest(folder)
    print_groups(sample(folder.path, groups))
    listed = folder.storage.is_file(folder.join(LISTED))
    print_manifest(manifest, folder.path, LISTED if listed else "scores/part-*.parquet")


@app.command()
def retry(
    run: RunPath,
    overrides: Overrides = None,
    allow_changed: Annotated[
        bool, typer.Option("--allow-changed", help="Go on although the scorer is not what it was.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an unfinished retry first.")] = False,
) -> None:
    """Score again what failed in a finished run, and what was a dead letter, into the table's next generation.

    The exit code is 1 where more candidates have errors even so than limits.max_errors allows.
    """
    from polar_ray.data.generations import generation
    from polar_ray.running.progress import reporter
    from polar_ray.running.retry import first_generation
    from polar_ray.running.retry import retry as retry_run
    from polar_ray.showing import print_manifest

    manifest = retry_run(run, overrides, allow_changed=allow_changed, fresh=fresh, reporter=reporter())
    number = manifest.generation.number if manifest.generation is not None else 1
    first = first_generation(run, overrides)
    print_manifest(manifest, generation(first.path, number), options=first.options)
    _end_badly_on_errors(manifest)


def _end_badly_on_errors(manifest: "Manifest", limits: "Limits | None" = None) -> None:
    """Says so, and ends with exit code 1, where more candidates have errors than the limits allow."""
    from polar_ray.running.manifest import error_line

    line = error_line(manifest, limits)
    if line is not None:
        say(line, file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def derive(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe, such as pipelines/pairs.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as run.path=out/demo.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete the derived dataset in the output folder first.")
    ] = False,
) -> None:
    """Derive pairs, best-of-N sets or labels from the score table of a finished run. Needs no model.

    Runs on this machine, or on the Ray cluster at compute.address or RAY_ADDRESS.
    """
    from polar_ray.deriving.summary import progress_line, summary
    from polar_ray.recipe.derive import DeriveRecipe

    resolved = DeriveRecipe.load(recipe, overrides)
    if resolved.compute.address or os.environ.get("RAY_ADDRESS"):
        from polar_ray.running.deriving import derive_on_ray as derive_recipe
    else:
        from polar_ray.deriving.derive import derive as derive_recipe
    manifest = derive_recipe(resolved, fresh=fresh, progress=progress_line if sys.stderr.isatty() else None)
    say(summary(manifest, resolved.output.path))


@app.command()
def report(
    run: RunPath,
    output: Annotated[str, typer.Option("--output", "-o", help="The page that is written.")] = "report.html",
    sample: Annotated[int, typer.Option("--sample", min=0, help="Prompts to show of each kind.")] = 12,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is picked at random.")] = 0,
    scorer: Annotated[
        str | None, typer.Option("--scorer", help="By whose rewards prompts are picked, in a table with several.")
    ] = None,
    text: Annotated[
        bool, typer.Option("--text/--no-text", help="Read texts: examples, lengths in characters. Without: faster.")
    ] = True,
    processes: Annotated[int | None, typer.Option("--processes", min=1, help="As many as CPUs by default.")] = None,
) -> None:
    """Write one HTML page about a finished run: distributions, margins, models, length, labels, examples."""
    from polar_ray.deriving.report.report import report as write_report
    from polar_ray.deriving.report.summary import progress_line, summary

    told = progress_line if sys.stderr.isatty() else None
    data = write_report(
        run, output, sample=sample, seed=seed, scorer=scorer, text=text, processes=processes, progress=told
    )
    say(summary(data, output))


@app.command()
def curate(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Such as pipelines/curate_nightly.yaml.")],
    overrides: Overrides = None,
    every: Annotated[
        str | None, typer.Option("--every", metavar="INTERVAL", help="Go on, with a tick every 30m, 1h, 1d, …")
    ] = None,
    cron: Annotated[
        str | None, typer.Option("--cron", metavar="EXPRESSION", help="Go on, with a tick at these times (UTC).")
    ] = None,
) -> None:
    """Score the shards that are new, derive, and publish a dated version. One tick, unless told to go on."""
    from polar_ray.curating.schedule import Cron, Every, SystemClock, keep_ticking, tick_in_process
    from polar_ray.curating.tick import curate as curate_recipe
    from polar_ray.recipe.curate import CurateRecipe
    from polar_ray.running.progress import LogLines, reporter
    from polar_ray.termination import exit_on_sigterm

    resolved = CurateRecipe.load(recipe, overrides)
    if every is not None and cron is not None:
        raise RecipeError("give one of --every and --cron")
    with exit_on_sigterm():
        if every is None and cron is None:
            say(curate_recipe(resolved, reporter=reporter()).text)
            return
        times = Every(every) if every is not None else Cron(cron or "")
        keep_ticking(times, lambda: tick_in_process(recipe, overrides or []), LogLines(), SystemClock())


@app.command()
def env() -> None:
    """Print versions, devices and what killed runs have left on this machine, for a bug report."""
    from polar_ray.environment import environment

    for name, value in environment().items():
        say(f"{name:<20} {value}")


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Runs the command line; an error that polar_ray raises on purpose is one sentence and exit code 1."""
    from polar_ray.termination import TERMINATED, end_in_peace, exit_on_sigterm

    sys.excepthook = print_traceback
    try:
        # From the start: what is imported and begun on the way may have a handler of its own, as Ray has.
        with exit_on_sigterm():
            app()
    except PolarRayError as error:
        say(f"polar-ray: {type(error).__name__}: {error}", sys.stderr)
        sys.exit(1)
    except SystemExit as stop:
        # typer ends the process so on an interrupt, Ray's handler and ours on SIGTERM.
        code = TERMINATED if stop.code == signal.SIGTERM else stop.code
        if code == TERMINATED:
            end_in_peace()
        if code in _STOPPED:
            print(f"polar-ray: {_STOPPED[code]}; run the same command again to go on", file=sys.stderr)
        sys.exit(code)


_STOPPED = {128 + signal.SIGINT: "interrupted", 128 + signal.SIGTERM: "terminated"}
