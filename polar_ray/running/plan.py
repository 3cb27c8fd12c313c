"""A dry run: what a recipe would read and do, from the input's head. Nothing is written, no model is loaded."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.dead_letters import Example, examples_of
from polar_ray.data.listing import InputFile
from polar_ray.data.parsing import parse_split
from polar_ray.data.reading import RawSplit, read_source
from polar_ray.data.scattered import assemble, parse_candidate_rows
from polar_ray.data.sources import Source, plan_sources
from polar_ray.errors import TooManyDeadLetters
from polar_ray.models.adapter_config import AdapterConfig
from polar_ray.models.checkpoint import resolve_adapter
from polar_ray.recipe.input import Input
from polar_ray.recipe.recipe import Recipe
from polar_ray.recipe.run import Compute, Limits
from polar_ray.recipe.scorers import Custom, RewardModel
from polar_ray.running.derivations import check_derivations
from polar_ray.running.estimate import estimate
from polar_ray.running.folder import RunFolder
from polar_ray.running.inputs import checked_files, no_rows
from polar_ray.running.lost_rows import REMEDY, are_too_many, layout_hint, reasons
from polar_ray.running.packing import packing
from polar_ray.running.parent import parent_of
from polar_ray.running.placement import placement
from polar_ray.scorers.catalog import make_encoder
from polar_ray.scorers.custom import find_class
from polar_ray.scorers.sight import Sight, seen

SAMPLE_FILES = 4
"""Sources, spread over the input, whose first split is looked at."""


@dataclass(frozen=True)
class FirstCandidate:
    """The first candidate as one scorer would see it."""

    scorer: str
    text: str
    ids: np.ndarray


@dataclass(frozen=True)
class Plan:
    """What a run would do; see ``plan``.

    Attributes:
        examples: One of the sample's dead letters, by reason.
        refusal: Why a run is likely to fail, where nothing in the sample becomes a group and the limits do not allow
            that.
    """

    recipe_yaml: str
    files: list[InputFile]
    sample_rows: int
    sample_groups: int
    sample_candidates: int
    sample_tokens: int
    sample_dead_letters: int
    dead_letters: dict[str, int]
    examples: dict[str, Example]
    first: list[FirstCandidate]
    estimate: list[str]
    warnings: list[str]
    placement: list[str]
    refusal: TooManyDeadLetters | None


def plan(recipe: Recipe) -> Plan:
    """Works out what a run of the recipe would do.

    Raises:
        PolarRayError: The input cannot be listed or has no rows, a scorer's tokenizer or adapter cannot be loaded, or
            the class of a custom one cannot be imported.
    """
    _check_targets(recipe)
    check_derivations(recipe, parent_of(recipe))
    output = RunFolder.of(recipe.output.path, recipe.output.storage_options, recipe.limits.storage_wait_s)
    files = checked_files(recipe, output, fresh=True)
    sources = plan_sources(files, recipe.input, recipe.limits.storage_wait_s)
    step = max(1, len(sources) // SAMPLE_FILES)
    sampled = [next(iter(read_source(source, recipe.input))) for source in sources[::step][:SAMPLE_FILES]]
    if not recipe.limits.allow_empty and not _any_row(sampled, sources, recipe.input):
        raise no_rows(files)
    groups, letters = _parsed(files, sampled, recipe.input)
    dead = Counter(letters["reason"].to_pylist())
    examples = examples_of(letters)
    each_candidates = np.array([int(pc.sum(lengths).as_py() or 0) for lengths in map(_lengths, groups)], np.int64)
    candidates = int(each_candidates.sum())
    each_tokens: np.ndarray | None = None
    first = []
    for name, scorer in recipe.named_scorers.items():
        encoder = make_encoder(scorer)
        if encoder is None:
            continue
        encoded = [encoder.encode(seen(table, encoder.sight).groups) for table in groups]
        ids_of_splits = [int(pc.sum(pc.list_value_length(table["ids"])).as_py() or 0) for table in encoded]
        each = np.array(ids_of_splits, np.int64)
        each_tokens = each if each_tokens is None else each_tokens + each
        ids = next((ids for table in encoded for ids in table.column("ids").drop_null()), None)
        if ids is not None:
            array = np.asarray(ids.as_py(), np.int32)
            first.append(FirstCandidate(name, encoder.decode(array), array))
    share = _sampled_share(files, sampled)
    return Plan(
        recipe_yaml=recipe.without_credentials().to_yaml(),
        files=files,
        sample_rows=sum(raw.rows for raw in sampled),
        sample_groups=sum(table.num_rows for table in groups),
        sample_candidates=candidates,
        sample_tokens=0 if each_tokens is None else int(each_tokens.sum()),
        sample_dead_letters=dead.total(),
        dead_letters=dict(dead),
        examples=examples,
        first=first,
        estimate=estimate(sources, sampled, share, each_candidates, each_tokens),
        placement=[
            f"{name or scorer.kind} runs {placement(recipe.compute, scorer, embedded=will_be_embedded(recipe.compute))}"
            for name, scorer in recipe.named_scorers.items()
        ],
        warnings=[
            *_warnings(recipe),
            *_unsupported(recipe, groups, candidates),
            *_lost(dead, recipe.input),
        ],
        refusal=None if candidates else _refusal(dead, examples, sampled, recipe.limits),
    )


def will_be_embedded(compute: Compute) -> bool:
    """Whether a run would have its Ray inside this process: as one that is there already is, if there is one."""
    if "ray" in sys.modules:
        # Planning loads no Ray; a notebook may have started one.
        from polar_ray.running.cluster import here

        if (there := here()) is not None:
            return there.embedded
    return not (compute.address or os.environ.get("RAY_ADDRESS"))


def _check_targets(recipe: Recipe) -> None:
    """Makes sure that the classes of custom scorers can be imported, where it is this machine that imports them."""
    if not will_be_embedded(recipe.compute):
        return
    for scorer in recipe.named_scorers.values():
        if isinstance(scorer, Custom):
            with _working_folder():
                find_class(scorer)


@contextmanager
def _working_folder() -> Iterator[None]:
    """Modules may lie in the working folder, where Ray's workers find them."""
    if (folder := os.getcwd()) in sys.path:
        yield
        return
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _any_row(sampled: list[RawSplit], sources: Sequence[Source], config: Input) -> bool:
    """Whether there is a row anywhere; if the sample has none, the rest is looked through until there is one."""
    rest = (raw for source in sources for raw in read_source(source, config))
    return any(map(_has_rows, sampled)) or any(map(_has_rows, rest))


def _has_rows(raw: RawSplit) -> bool:
    # What cannot be read becomes a dead letter, and blank lines become nothing.
    return raw.error is not None or (bool(raw.payload.strip()) if raw.kind == "jsonl" else raw.rows > 0)


def _lengths(groups: pa.Table) -> pa.ChunkedArray:
    """int32: the candidates of each group."""
    return pc.list_value_length(groups.column("candidates"))


def _warnings(recipe: Recipe) -> list[str]:
    """Returns what is likely a mistake in the recipe, in sentences."""
    adapted = [scorer for scorer in recipe.named_scorers.values() if isinstance(scorer, RewardModel) and scorer.adapter]
    found = []
    for scorer in adapted:
        assert scorer.adapter is not None
        folder = resolve_adapter(scorer.adapter, scorer.adapter_revision, weights=False)
        found.append(AdapterConfig.read(folder).differs_from(scorer.model))
    return [sentence for sentence in found if sentence is not None]


def _unsupported(recipe: Recipe, groups: list[pa.Table], candidates: int) -> list[str]:
    """Returns for each scorer how much of the sample carries what it cannot show its model, if any does."""
    found = []
    for name, scorer in recipe.named_scorers.items():
        # What a scorer of the user's sees is said by its class, which may not be installed here.
        if scorer.kind == "custom":
            continue
        each = [seen(table, Sight.of(scorer)).misses or [] for table in groups]
        reasons = [reason for misses in each for reason in misses if reason is not None]
        if reasons:
            found.append(
                f"{len(reasons)} of the {candidates} candidates in the sample will have the status unsupported from "
                f"{name or scorer.kind}, and no reward: {reasons[0]}"
            )
    return found


def _lost(dead: Counter[str], config: Input) -> list[str]:
    """Returns what to do about candidates that another layout would keep, if there are such."""
    hint = layout_hint(dead, config.layout)
    return [] if hint is None else [f"{dead['duplicate_prompt_id']} rows of the sample would be lost; {hint}"]


def _refusal(
    dead: Counter[str], examples: dict[str, Example], sampled: list[RawSplit], limits: Limits
) -> TooManyDeadLetters | None:
    """Returns why a run of which the sample gives no group is likely to fail, unless the limits allow it."""
    # What cannot be read at the end of a damaged file counts as one row.
    read = sum(raw.rows + (raw.error is not None) for raw in sampled)
    if not are_too_many(dead.total(), read, limits):
        return None
    return TooManyDeadLetters(
        f"nothing in the sample becomes a group: {dead.total()} of its {read} rows would be dead letters "
        f"({reasons(dead, examples)}), more than limits.max_dead_letters={limits.max_dead_letters:g} allows; {REMEDY}"
    )


def _parsed(files: list[InputFile], sampled: list[RawSplit], config: Input) -> tuple[list[pa.Table], pa.Table]:
    """Returns the sample's groups and its dead letters.

    Of scattered input the sample holds only some candidates of each group.
    """
    if config.layout == "scattered":
        read = [parse_candidate_rows(raw, config, partitions=1) for raw in sampled]
        together = assemble(pa.concat_tables([split.table for split in read]), [file.path for file in files])
        tables = [together.groups]
        letters = [together.dead_letters, *(split.dead_letters for split in read)]
    else:
        parsed = [parse_split(raw, config) for raw in sampled]
        tables = [split.groups for split in parsed]
        letters = [split.dead_letters for split in parsed]
    return tables, pa.concat_tables(letters)


def _sampled_share(files: list[InputFile], sampled: list[RawSplit]) -> float:
    """The share of the input, by bytes, that the sample is: exact for plain JSONL, a guess where bytes are packed."""
    read = sum(raw.input_bytes / packing(files[raw.file_index]) for raw in sampled)
    return min(1.0, read / max(1, sum(file.size for file in files)))
