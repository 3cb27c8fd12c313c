"""What the commands print: manifests, plans, and groups with their candidates in ranked order."""

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polar_ray.data.scores import scorer_names
from polar_ray.deriving.columns import ScoreColumns

if TYPE_CHECKING:
    import pyarrow as pa

    from polar_ray.running.manifest import Manifest
    from polar_ray.running.plan import Plan

TEXT_WIDTH = 400
"""Characters of one text that are shown."""


def print_manifest(manifest: "Manifest", path: str) -> None:
    """Prints the figures of a run."""
    console = _console()
    counts = manifest.counts
    console.print(
        f"{counts['groups']:,} groups, {counts['candidates']:,} candidates from {counts['rows']:,} rows "
        f"in {manifest.duration_s:,.1f} s ({manifest.throughput['candidates_per_s']:,.0f} candidates/s while scoring)"
    )
    for name, statuses in counts["statuses"].items():
        shown = ", ".join(f"{status} {count:,}" for status, count in statuses.items())
        console.print(f"status{f' of {name}' if name else ''}: {shown}")
    for what in ("dead_letters", "drops"):
        if counts[what]:
            shown = ", ".join(f"{reason} {count:,}" for reason, count in counts[what].items())
            console.print(f"{what.replace('_', ' ')}: {shown}")
    kept = manifest.conservation
    console.print(
        f"conservation: {kept['rows_read']:,} rows read = {kept['rows_in_groups']:,} in groups + "
        f"{kept['dead_letters']:,} dead letters + {kept['drops']:,} drops"
    )
    console.print(f"score table: {path.rstrip('/')}/scores/part-*.parquet", soft_wrap=True)


def print_groups(table: "pa.Table") -> None:
    """Prints groups of a score table: prompt, reference, and the candidates in ranked order."""
    console = _console()
    column = ScoreColumns(scorer_names(table.schema)[0])
    for row in table.to_pylist():
        grid = Table(title=_plain(_text(row["prompt"])), title_justify="left", title_style="bold", expand=True)
        grid.add_column("rank", justify="right", width=4)
        grid.add_column("reward", justify="right", width=8)
        grid.add_column("status", width=9)
        grid.add_column("candidate", ratio=1)
        for reference in row["references"]:
            grid.add_row("", "", "reference", _plain(_text(reference)), style="dim", end_section=True)
        for rank, reward, status, candidate in _ranked(row, column):
            grid.add_row(
                "" if rank is None else str(rank),
                "" if reward is None else f"{reward:.3f}",
                status,
                _plain(_text(candidate["messages"])),
            )
        console.print(grid)


def print_plan(plan: "Plan") -> None:
    """Prints what a run would do."""
    console = _console()
    console.print("recipe", style="bold")
    console.print(plan.recipe_yaml, soft_wrap=True)
    console.print("input", style="bold")
    for file in plan.files[:20]:
        console.print(f"  {file.path}  {file.size:,} bytes", soft_wrap=True)
    if len(plan.files) > 20:
        console.print(f"  … and {len(plan.files) - 20:,} more")
    console.print(
        f"sample: {plan.sample_rows:,} rows → {plan.sample_groups:,} groups, {plan.sample_candidates:,} candidates, "
        f"{plan.sample_tokens:,} tokens, {plan.sample_dead_letters:,} dead letters"
    )
    for reason, count in plan.dead_letters.items():
        console.print(f"  dead letter {reason}: {count:,}")
    for first in plan.first:
        name = f" ({first.scorer})" if first.scorer else ""
        console.print(f"first encoded candidate{name}", style="bold")
        console.print(Text(first.text))
        console.print(f"{len(first.ids):,} ids: {first.ids[:64].tolist()}{' …' if len(first.ids) > 64 else ''}")
    console.print("estimate", style="bold")
    for line in plan.estimate:
        console.print(f"  {line}")
    console.print("nothing was written")


def _ranked(row: dict[str, Any], column: ScoreColumns) -> list[tuple[int | None, float | None, str, dict[str, Any]]]:
    """The candidates of a row, best first, those without a reward last."""
    entries = list(
        zip(row[column("rank")], row[column("reward")], row[column("status")], row["candidates"], strict=True)
    )
    return sorted(entries, key=lambda entry: (entry[0] is None, entry[0] or 0))


def _text(messages: list[dict[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages)


def _plain(text: str) -> Text:
    """Shows a text as it is: no markup, no control characters, cut to a readable length."""
    clean = "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)
    return Text(clean if len(clean) <= TEXT_WIDTH else clean[:TEXT_WIDTH] + " …")


def _console() -> Console:
    # What is printed is data: a path such as [ab].jsonl is no markup.
    console = Console(highlight=False, markup=False, emoji=False)
    # A pipe or a file has no width of its own; a very wide terminal makes long lines hard to read.
    console.width = min(console.width, 140) if console.is_terminal else 110
    return console
