"""The dataset card: a README with Hugging Face's front matter, so that the folder loads with ``datasets``."""

from typing import Any

import pyarrow as pa
import yaml

from polar_ray.deriving.derived_folder import DerivedManifest, Parent
from polar_ray.deriving.features import features
from polar_ray.deriving.ledger import REASONS
from polar_ray.recipe.derive import DeriveRecipe

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_WHAT = {
    "pairs": "Preference pairs, made from candidates by their rewards.",
    "best_of_n": "Candidates selected by their rewards.",
    "labels": "Candidates labelled by their rewards.",
}


def card(recipe: DeriveRecipe, manifest: DerivedManifest, schema: pa.Schema | None) -> str:
    """Returns the card of a derived dataset; ``schema`` is that of its rows, unless nothing was read at all."""
    title = recipe.card.title or recipe.name
    counts = manifest.counts
    front = yaml.safe_dump(_front_matter(recipe, manifest, schema), sort_keys=False, allow_unicode=True)
    ledger = _table(
        ("reason", "prompts", "what it means"),
        [(f"`{reason}`", f"{count:,}", REASONS[reason]) for reason, count in manifest.ledger.items()],
    )
    removed = {**manifest.removed_candidates, **{f"pair: {k}": v for k, v in manifest.removed_pairs.items()}}
    policy = yaml.safe_dump(manifest.recipe, sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---\n\n# {title}\n\n{_WHAT[manifest.task]} Format: `{recipe.export.kind}`.",
        "## Counts\n\n"
        + _table(
            ("", "number"),
            [
                ("prompts", f"{counts['prompts']:,}"),
                ("candidates", f"{counts['candidates']:,}"),
                ("prompts with rows", f"{counts['prompts_with_rows']:,}"),
                ("rows for training", f"{counts['train']:,}"),
                ("rows for validation", f"{counts['validation']:,}"),
            ],
        ),
    ]
    if manifest.ledger:
        parts.append("## Prompts without rows\n\nAll of them are listed in `ledger/`.\n\n" + ledger)
    if removed:
        parts.append(
            "## What was left out\n\n"
            + _table(("condition", "number"), [(f"`{name}`", f"{count:,}") for name, count in removed.items()])
        )
    if manifest.curve:
        shown = [point for point in manifest.curve if point["n"] & (point["n"] - 1) == 0 or point is manifest.curve[-1]]  # type: ignore[operator]
        parts.append(
            "## Best of n\n\n"
            + _table(
                ("n", "expected best reward", "prompts"),
                [(str(p["n"]), f"{p['expected_best']:.4f}", f"{p['prompts']:,}") for p in shown],
            )
        )
    lineage = [f"Derived from {_run(manifest.parent)}"]
    lineage += [f"Joined by ids as `{name}`: {_run(run)}" for name, run in manifest.joined.items()]
    parts.append("## Lineage\n\n" + "\n\n".join(lineage))
    parts.append(f"## Recipe\n\n```yaml\n{policy}```")
    return "\n\n".join(parts) + "\n"


def _run(run: Parent) -> str:
    fingerprints = "\n".join(
        f"- scorer{f' `{name}`' if name else ''}: "
        + ", ".join(f"{key} `{value}`" for key, value in sorted(parts.items()))
        for name, parts in run.fingerprints.items()
    )
    return (
        f"the run `{run.name}` at `{run.path}` ({run.groups:,} prompts, {run.candidates:,} candidates; sha256 of its "
        f"manifest `{run.manifest_sha256}`).\n\n{fingerprints}"
    )


def _front_matter(recipe: DeriveRecipe, manifest: DerivedManifest, schema: pa.Schema | None) -> dict[str, Any]:
    # Without rows there is one file, which has the columns.
    sides = [side for side in ("train", "validation") if manifest.counts[side]] or ["train"]
    rows = manifest.counts["rows"]
    front: dict[str, Any] = {"pretty_name": recipe.card.title or recipe.name}
    if recipe.card.license is not None:
        front["license"] = recipe.card.license
    if recipe.card.language:
        front["language"] = recipe.card.language
    front["tags"] = ["polar-ray", manifest.task.replace("_", "-"), *recipe.card.tags]
    front["size_categories"] = [next((name for bound, name in _SIZES if rows < bound), "n>1M")]
    files = [{"split": side, "path": f"data/{side}/*.{recipe.files.format}"} for side in sides]
    if recipe.files.format == "jsonl" and schema is not None and (told := features(schema)) is not None:
        front["dataset_info"] = {"features": told}
    front["configs"] = [{"config_name": "default", "data_files": files}]
    return front


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
