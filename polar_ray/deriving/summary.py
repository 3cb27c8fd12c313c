"""What the command line says of a derived dataset."""

import sys

from polar_ray.deriving.derived_folder import DerivedManifest


def summary(manifest: DerivedManifest, path: str) -> str:
    """Returns the counts of a derived dataset, the reasons of the prompts without rows, and where it is."""
    counts, kept = manifest.counts, manifest.conservation
    sides = f" ({counts['train']:,} train, {counts['validation']:,} validation)" if counts["validation"] else ""
    lines = [
        f"{counts['rows']:,} rows{sides} from {counts['prompts']:,} prompts with {counts['candidates']:,} candidates",
        f"conservation: {kept['prompts']:,} prompts = {kept['with_rows']:,} with rows + "
        f"{kept['with_a_reason']:,} without",
    ]
    lines += [f"  without, {reason}: {count:,}" for reason, count in _largest_first(manifest.ledger)]
    for what, removed in (("candidates", manifest.removed_candidates), ("pairs", manifest.removed_pairs)):
        if removed:
            shown = ", ".join(f"{reason} {count:,}" for reason, count in _largest_first(removed))
            lines.append(f"{what} left out: {shown}")
    for name, lacks in manifest.missing.items():
        lines.append(f"run.join.{name} lacks {lacks['prompts']:,} prompts and {lacks['candidates']:,} candidates")
    if manifest.lowest_reward is not None:
        lines.append(f"lowest reward selected by the table's quantile: {manifest.lowest_reward:.6g}")
    if manifest.curve:
        shown = ", ".join(f"{p['n']:.0f}: {p['expected_best']:.4f}" for p in manifest.curve if _is_power_of_two(p["n"]))
        lines.append(f"expected best reward of n candidates: {shown}")
    lines.append(f"dataset: {path.rstrip('/')}")
    return "\n".join(lines)


def progress_line(done: int, units: int) -> None:
    """Shows how far it is, on one line of a terminal."""
    print(f"\r{done:,} of {units:,} units", end="\n" if done == units else "", file=sys.stderr, flush=True)


def _largest_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))


def _is_power_of_two(n: float) -> bool:
    return int(n) & (int(n) - 1) == 0
