"""What the commands print: manifests, plans, and groups with their candidates in ranked order."""

import shlex
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polar_ray.data.generations import run_of
from polar_ray.data.scores import LISTED, scorer_names
from polar_ray.data.status import FAILED, Status
from polar_ray.deriving.columns import ScoreColumns
from polar_ray.deriving.derived_folder import DerivedFolder
from polar_ray.deriving.summary import summary
from polar_ray.running.folder import RunFolder
from polar_ray.running.frequent_failures import failing_run, frequent_failures
from polar_ray.running.lost_rows import layout_hint
from polar_ray.running.verified import failed, verification_line
from polar_ray.terminal import printable, say

if TYPE_CHECKING:
    import pyarrow as pa

    from polar_ray.recipe.recipe import Recipe
    from polar_ray.running.manifest import Manifest
    from polar_ray.running.plan import Plan

TEXT_WIDTH = 400
"""Characters of one text that are shown."""

MESSAGE_WIDTH = 300
"""Characters of an error's message that are shown."""


def print_manifest(
    manifest: "Manifest",
    path: str,
    table: str = "scores/part-*.parquet",
    *,
    options: dict[str, Any] | None = None,
    timed: bool = True,
) -> None:
    """Prints the figures of a run, and why candidates have no reward.

    Args:
        manifest: Of the run.
        path: Its folder.
        table: Where its score table lies in there.
        options: Storage options of the folder.
        timed: Print how long it took, too: not where nothing was done.
    """
    console = _console()
    counts = manifest.counts
    took = (
        f" in {manifest.duration_s:,.1f} s ({manifest.throughput['candidates_per_s']:,.0f} candidates/s while scoring)"
    )
    console.print(
        f"{counts['groups']:,} groups, {counts['candidates']:,} candidates from {counts['rows']:,} rows"
        + (took if timed else "")
    )
    for name, statuses in counts["statuses"].items():
        shown = ", ".join(f"{status} {count:,}" for status, count in statuses.items())
        console.print(f"status{f' of {name}' if name else ''}: {shown or 'no candidates'}")
    _print_unscored(console, manifest, path, table, options)
    for what in ("dead_letters", "drops"):
        if counts[what]:
            shown = ", ".join(f"{reason} {count:,}" for reason, count in counts[what].items())
            console.print(f"{what.replace('_', ' ')}: {shown}")
    if (hint := layout_hint(counts["dead_letters"], manifest.recipe["input"].get("layout", "groups"))) is not None:
        console.print(f"  to keep the rows of duplicate_prompt_id: {hint}", soft_wrap=True)
    if manifest.parent is not None:
        console.print(
            f"scores of {', '.join(manifest.parent.scorers)} were taken over from {manifest.parent.path}",
            soft_wrap=True,
        )
    kept = manifest.conservation
    console.print(
        f"conservation: {kept['rows_read']:,} rows read = {kept['rows_in_groups']:,} in groups + "
        f"{kept['dead_letters']:,} dead letters + {kept['drops']:,} drops"
    )
    if manifest.generation is not None:
        sources = ", ".join(f"{source.groups:,} from {source.generation}" for source in manifest.generation.sources)
        console.print(f"generation {manifest.generation.number}; rows by the generation that scored them: {sources}")
    if timed:
        _print_stages(console, manifest)
    for name, entry in manifest.verification.items():
        console.print(verification_line(name, entry), style="bold red" if failed(entry) else None)
    console.print(f"score table: {path.rstrip('/')}/{table}", soft_wrap=True)


def print_derived(recipe: "Recipe") -> None:
    """Prints what a run derived from its score table."""
    for name, derivation in recipe.derivations.items():
        folder = DerivedFolder.of(derivation.output, derivation.limits.storage_wait_s)
        say(f"\n{name}: {summary(folder.read_manifest(), derivation.output.path)}")


def print_groups(table: "pa.Table") -> None:
    """Prints groups of a score table: prompt, references, and the candidates as the first scorer ranks them.

    Every scorer has a column of rewards; a candidate without a reward shows its status there instead.
    """
    console = _console()
    scorers = [ScoreColumns(name) for name in scorer_names(table.schema)]
    for row in table.to_pylist():
        grid = Table(title=_plain(_text(row["prompt"])), title_justify="left", title_style="bold", expand=True)
        # Texts without spaces are wrapped inside their words; rich would cut such a word at the line's end.
        grid.add_column("rank", justify="right", width=4, overflow="fold")
        for scorer in scorers:
            grid.add_column(_plain(scorer("reward")), justify="right", min_width=8, overflow="fold")
        grid.add_column("candidate", ratio=1, overflow="fold")
        for reference in row["references"]:
            grid.add_row(
                "", *[""] * len(scorers), _plain("reference: " + _text(reference)), style="dim", end_section=True
            )
        for place in _ranked(row[scorers[0]("rank")]):
            rank = row[scorers[0]("rank")][place]
            cells = [_reward(row[scorer("reward")][place], row[scorer("status")][place]) for scorer in scorers]
            text = _plain(_text(row["candidates"][place]["messages"]))
            grid.add_row("" if rank is None else str(rank), *map(_plain, cells), text)
        console.print(grid)


def print_plan(plan: "Plan") -> None:
    """Prints what a run would do."""
    console = _console()
    console.print("recipe", style="bold")
    console.print(plan.recipe_yaml, soft_wrap=True)
    console.print("input", style="bold")
    for file in plan.files[:20]:
        console.print(f"  {printable(file.path, lines=False)}  {file.size:,} bytes", soft_wrap=True)
    if len(plan.files) > 20:
        console.print(f"  … and {len(plan.files) - 20:,} more")
    tokens = f"{plan.sample_tokens:,} tokens, " if plan.sample_tokens else ""
    console.print(
        f"sample: {plan.sample_rows:,} rows → {plan.sample_groups:,} groups, {plan.sample_candidates:,} candidates, "
        f"{tokens}{plan.sample_dead_letters:,} dead letters"
    )
    for reason, count in plan.dead_letters.items():
        console.print(f"  dead letter {reason}: {count:,}, such as {plan.examples[reason]}", soft_wrap=True)
    for first in plan.first:
        name = f" ({first.scorer})" if first.scorer else ""
        console.print(f"first encoded candidate{name}", style="bold")
        console.print(first.text)
        console.print(f"{len(first.ids):,} ids: {first.ids[:64].tolist()}{' …' if len(first.ids) > 64 else ''}")
    console.print("scorers", style="bold")
    for line in plan.placement:
        console.print(f"  {line}", soft_wrap=True)
    console.print("estimate", style="bold")
    for line in plan.estimate:
        console.print(f"  {line}")
    for warning in plan.warnings:
        console.print(f"warning: {warning}", style="bold", soft_wrap=True)
    console.print("nothing was written")


def _print_unscored(
    console: Console, manifest: "Manifest", path: str, table: str, options: dict[str, Any] | None
) -> None:
    """Prints the most frequent failures with a prompt each, and what to do about them."""
    statuses = manifest.counts["statuses"]
    scorers = [name for name, counts in statuses.items() if counts.keys() & FAILED]
    if not scorers:
        return
    folder = RunFolder.of(path, options)
    for found in frequent_failures(folder, scorers):
        who = f"{found.scorer}: " if found.scorer else ""
        said = f"  {who}{found.status} {found.candidates:,}, such as in prompt_id {found.prompt_id!r}"
        console.print(
            said + (f": {' '.join(found.message.split())[:MESSAGE_WIDTH]}" if found.message else ""), soft_wrap=True
        )
    if table == LISTED:
        # Its parts belong to several runs, and what they give comes into the next version.
        run = failing_run(folder)
        again = f", such as with polar-ray retry {shlex.quote(run)}" if run is not None else ""
        told = (
            f"mend the cause, then retry the runs of the curation that scored these{again}; its next tick publishes it"
        )
    else:
        told = f"mend the cause, then score these again: polar-ray retry {shlex.quote(run_of(path, options)[0])}"
    console.print(f"  {told}", soft_wrap=True)


def _print_stages(console: Console, manifest: "Manifest") -> None:
    """Prints how long the scorers waited, which is what a run on a GPU pays for, and how long each stage was busy."""
    busy = []
    for stage, time in manifest.stages.items():
        kind, _, name = stage.partition(" ")
        shown = f"{stage} {time['busy_s']:,.1f} s"
        if kind == "score" and "waited" in time:
            config = manifest.recipe["scorers"][name] if name else manifest.recipe["scorer"]
            who = "model" if "model" in config else "scorer"
            of = f" of {name}" if name else ""
            console.print(f"the {who}{of} waited {time['waited']:.1%} of its time for input")
        elif "waited" in time:
            shown += f" (idle {time['waited']:.0%})"
        busy.append(shown)
    if busy:
        console.print(f"busy: {', '.join(busy)}", soft_wrap=True)


def _ranked(ranks: list[int | None]) -> list[int]:
    """Places of the candidates, best first, those without a rank last."""
    return sorted(range(len(ranks)), key=lambda place: (ranks[place] is None, ranks[place] or 0))


def _reward(reward: float | None, status: str) -> str:
    if reward is None:
        return status
    return f"{reward:.3f}" if status == Status.OK.value else f"{reward:.3f} {status}"


def _text(messages: list[dict[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages)


def _plain(text: str) -> Text:
    """Shows a text as it is: no markup, no control characters, cut to a readable length."""
    return Text(printable(text if len(text) <= TEXT_WIDTH else text[:TEXT_WIDTH] + " …"))


class _Console(Console):
    """A console to which strings go as data."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*(printable(each) if isinstance(each, str) else each for each in objects), **options)


def _console() -> Console:
    # What is printed is data: a path such as [ab].jsonl is no markup.
    console = _Console(highlight=False, markup=False, emoji=False)
    # A pipe or a file has no width of its own; a very wide terminal makes long lines hard to read.
    console.width = min(console.width, 140) if console.is_terminal else 110
    return console
