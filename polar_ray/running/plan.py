"""A dry run: what a recipe would read and do, from the input's head. Nothing is written, no model is loaded."""

import os
import sys
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.arrays import lengths_of
from polar_ray.data.listing import InputFile
from polar_ray.data.parsing import parse_split
from polar_ray.data.reading import RawSplit, read_source
from polar_ray.data.scattered import assemble, parse_candidate_rows
from polar_ray.data.sources import plan_sources
from polar_ray.models.adapter_config import AdapterConfig
from polar_ray.models.checkpoint import resolve_adapter
from polar_ray.recipe.input import Input
from polar_ray.recipe.recipe import Recipe
from polar_ray.recipe.run import Compute
from polar_ray.recipe.scorers import RewardModel
from polar_ray.running.derivations import check_derivations
from polar_ray.running.estimate import estimate
from polar_ray.running.folder import RunFolder
from polar_ray.running.inputs import checked_files
from polar_ray.running.packing import packing
from polar_ray.running.parent import parent_of
from polar_ray.running.placement import placement
from polar_ray.scorers.catalog import make_encoder
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
    """What a run would do; see ``plan``."""

    recipe_yaml: str
    files: list[InputFile]
    sample_rows: int
    sample_groups: int
    sample_candidates: int
    sample_tokens: int
    sample_dead_letters: int
    dead_letters: dict[str, int]
    first: list[FirstCandidate]
    estimate: list[str]
    warnings: list[str]
    placement: list[str]


def plan(recipe: Recipe) -> Plan:
    """Works out what a run of the recipe would do.

    Raises:
        PolarRayError: The input cannot be listed, or a scorer's tokenizer or adapter cannot be loaded.
    """
    check_derivations(recipe, parent_of(recipe))
    output = RunFolder.of(recipe.output.path, recipe.output.storage_options, recipe.limits.storage_wait_s)
    files = checked_files(recipe, output, fresh=True)
    sources = plan_sources(files, recipe.input, recipe.limits.storage_wait_s)
    step = max(1, len(sources) // SAMPLE_FILES)
    sampled = [next(iter(read_source(source, recipe.input))) for source in sources[::step][:SAMPLE_FILES]]
    groups, reasons = _parsed(files, sampled, recipe.input)
    candidates = sum(sum(len(row) for row in table.column("candidates")) for table in groups)
    tokens = 0
    each_tokens: np.ndarray | None = None
    first = []
    for name, scorer in recipe.named_scorers.items():
        encoder = make_encoder(scorer)
        if encoder is None:
            continue
        encoded = [encoder.encode(seen(table, Sight.of(scorer)).groups) for table in groups]
        of_groups = np.concatenate(
            [_tokens(table, group.num_rows) for table, group in zip(encoded, groups, strict=True)]
        )
        each_tokens = of_groups if each_tokens is None else each_tokens + of_groups
        tokens += int(of_groups.sum())
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
        sample_tokens=tokens,
        sample_dead_letters=reasons.total(),
        dead_letters=dict(reasons),
        first=first,
        estimate=estimate(sources, sampled, share, _candidates(groups, sampled, recipe.input), each_tokens),
        placement=[
            f"{name or scorer.kind} runs {placement(recipe.compute, scorer, embedded=will_be_embedded(recipe.compute))}"
            for name, scorer in recipe.named_scorers.items()
        ],
        warnings=[*_warnings(recipe), *_unsupported(recipe, groups, candidates)],
    )


def will_be_embedded(compute: Compute) -> bool:
    """Whether a run would have its Ray inside this process: as one that is there already is, if there is one."""
    if "ray" in sys.modules:
        # Planning loads no Ray; a notebook may have started one.
        from polar_ray.running.cluster import here

        if (there := here()) is not None:
            return there.embedded
    return not (compute.address or os.environ.get("RAY_ADDRESS"))


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


def _parsed(files: list[InputFile], sampled: list[RawSplit], config: Input) -> tuple[list[pa.Table], Counter[str]]:
    """Returns the sample's groups, and its dead letters by reason.

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
    return tables, Counter(reason for table in letters for reason in table["reason"].to_pylist())


def _sampled_share(files: list[InputFile], sampled: list[RawSplit]) -> float:
    """The share of the input, by bytes, that the sample is: exact for plain JSONL, a guess where bytes are packed."""
    read = sum(raw.input_bytes / packing(files[raw.file_index]) for raw in sampled)
    return min(1.0, read / max(1, sum(file.size for file in files)))


def _candidates(groups: list[pa.Table], sampled: list[RawSplit], config: Input) -> np.ndarray:
    """int64: the candidates of each row that was looked at; a row that becomes none has 0."""
    rows = sum(raw.rows for raw in sampled)
    if config.layout == "groups":
        each = [lengths_of(chunk) for table in groups for chunk in table.column("candidates").chunks]
    else:
        each = [np.ones(sum(len(row) for row in table.column("candidates")), np.int64) for table in groups]
    found = np.concatenate([*each, np.zeros(0, np.int64)])
    return np.concatenate([found, np.zeros(max(0, rows - len(found)), np.int64)])


def _tokens(encoded: pa.Table, groups: int) -> np.ndarray:
    """int64 [groups]: tokens of all sequences of each group."""
    lengths = pc.fill_null(pc.list_value_length(encoded.column("ids")), 0).to_numpy()
    return np.bincount(encoded.column("group").to_numpy(), lengths, groups).astype(np.int64)
