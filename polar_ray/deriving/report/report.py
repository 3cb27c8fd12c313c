"""The report of a run: one HTML page that needs nothing else, made from the score table alone."""

import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial, reduce
from typing import Any

from polar_ray.data.manifests import decode_manifest
from polar_ray.data.scores import open_scores, parts_of, table_folder
from polar_ray.data.storage import Storage
from polar_ray.deriving.pool import in_order, usable_cpus
from polar_ray.deriving.report.choosing import CATEGORIES, Chosen
from polar_ray.deriving.report.content import content
from polar_ray.deriving.report.examples import arranged, fitted, read_examples, wishes_of
from polar_ray.deriving.report.measure import Measured, Measuring, Sample, measure_unit
from polar_ray.deriving.report.page import page
from polar_ray.deriving.report.run_record import dead_letters, kinds_of, run_record
from polar_ray.deriving.report.sources import sources_of
from polar_ray.deriving.report.survey import Survey, empty_survey, survey_unit
from polar_ray.deriving.units import plan_units
from polar_ray.errors import ConservationError, OutputError

SAMPLED = 20_000
"""Candidates, about, from which correlations of ranks are computed in a larger table."""

Progress = Callable[[str, int, int], None]
"""Is told a step, and how many of its units are done."""


def report(
    run: str,
    output: str = "report.html",
    *,
    sample: int = 12,
    seed: int = 0,
    scorer: str | None = None,
    text: bool = True,
    processes: int | None = None,
    storage_options: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes the report of a finished run as one HTML page, and returns the data in it.

    Counts, distributions, win rates and the rest are computed over all rows, streaming; Spearman's correlations over
    the whole table are computed from about 20,000 candidates at random where there are more, and examples are chosen.
    The page says which. The same table and seed give the same figures and examples.

    Args:
        run: The output folder of the run.
        output: Where the page goes: a local path or URL.
        sample: Prompts to show of each kind: best, worst, closest, and so on.
        seed: Of what is picked at random.
        scorer: The scorer whose rewards decide which prompts are shown and come first; the table's first by default.
        text: Read texts: lengths in characters and examples. Without, the page holds nothing that a person or a model
            wrote, and is made faster.
        processes: As many as there are CPUs by default.
        storage_options: For the run's storage, as in a recipe.
        progress: Is told how far it is.

    Raises:
        NotARun: There is no run in the folder.
        NotFinished: The run has not finished.
        RecipeError: The table has no such scorer.
        OutputError: ``output`` is a folder.
        ConservationError: The table does not hold the groups that the manifest counts.

    Example:
        >>> data = report("out/demo", "out/demo-report.html")
        >>> data["candidates"]
        276
    """
    started = time.monotonic()
    target = Storage.of(output, storage_options if "://" in output else None)
    if target.is_local and os.path.isdir(target.root):
        raise OutputError(f"{output} is a folder; give the page a name in it, such as {output.rstrip('/')}/report.html")
    if target.is_local:
        Storage.of(os.path.dirname(target.root)).check_writable()
    source = Storage.of(table_folder(run, storage_options), storage_options)
    dataset = open_scores(run, storage_options=storage_options)
    place = source.join("manifest.json")
    manifest = decode_manifest(source.read_bytes(place), place)
    sources = sources_of(dataset.schema, manifest, scorer=scorer, text=text)
    # A table without rewards has nothing to read.
    units = plan_units(parts_of(source)) if sources.scorers else []
    # Starting a process takes as long as measuring a few units.
    workers = min(processes or min(usable_cpus(), len(units) // 8), len(units)) or 1

    def told(step: str, results: Any, many: int) -> Any:
        for done, result in enumerate(results, 1):
            if progress is not None:
                progress(step, done, many)
            yield result

    surveys = told("counting", in_order(partial(survey_unit, source, sources), units, workers), len(units))
    survey: Survey = reduce(lambda one, two: one + two, surveys, empty_survey(sources))
    _check(survey, manifest)
    measuring = Measuring(
        storage=source,
        sources=sources,
        models=survey.known_models(),
        bins=tuple(found.bins() for found in survey.ranges),
        quantiles=tuple(tuple(found.quantile_bins()) for found in survey.ranges),
        examples=sample,
        share=min(1.0, SAMPLED / max(survey.candidates, 1)),
        seed=seed,
    )
    measures = told("measuring", in_order(partial(measure_unit, measuring), units, workers), len(units))
    nothing = Measured((), {}, {}, Sample(), Chosen({}))
    measured: Measured = reduce(lambda one, two: one.merged(two, sample), measures) if units else nothing
    examples: list[dict[str, Any]] = []
    cut = 0
    if text and sample:
        wishes = wishes_of(measured.chosen)
        read = in_order(partial(read_examples, source, sources), wishes, min(workers, max(1, len(wishes) // 8)))
        found = dict(pair for pairs in told("reading examples", read, len(wishes)) for pair in pairs)
        examples, cut = fitted(arranged(found, measured.chosen))
    data = {
        "run": run_record(manifest) | {"path": source.url},
        **content(survey, measuring, measured, kinds_of(manifest)),
        "dead_letters": dead_letters(source, text=text),
        "examples": examples,
        "settings": {"sample": sample, "seed": seed, "text": text, "cut": cut, "categories": CATEGORIES},
        "made": {
            "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started, 2),
        },
    }
    target.write_atomic(target.url, page(data).encode())
    return data


def _check(survey: Survey, manifest: dict[str, Any]) -> None:
    groups = manifest["counts"]["groups"]
    if survey.ranges and survey.prompts != groups:
        raise ConservationError(
            f"the run's manifest has {groups} groups and its score table {survey.prompts}; if the table is whole, "
            "please report this"
        )
