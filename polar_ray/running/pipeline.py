"""The Ray Data graph of a run."""

import pickle
from collections.abc import Iterator
from typing import Any

import msgspec
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources

from polar_ray.data.sources import Source
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.folder import Commit
from polar_ray.running.job import Job
from polar_ray.running.placement import Pool
from polar_ray.running.scattering import Gather, ToRows, partitions
from polar_ray.running.scoring import Score
from polar_ray.running.stages import Encode, EncodeNext, Read, Write

READ_CPUS, ENCODE_CPUS, WRITE_CPUS = 0.4, 0.9, 0.4
"""CPUs that one task of each stage asks for.

They differ from each other and from any usual actor, because Ray Data fuses neighbouring stages that ask for the
same resources, and fused stages cannot overlap.
"""


def dataset(job: Job, sources: list[Source], committed: frozenset[str], pools: list[Pool], attempts: Any) -> Dataset:
    """Returns the pipeline from sources to commit records; running it writes the parts.

    Args:
        job: What the run does.
        sources: What is still to be read.
        committed: Splits that are done; they are not scored again.
        pools: One for each of the recipe's scorers.
        attempts: The AttemptLog actor.
    """
    recipe = job.recipe
    with DataContext.current(_context(recipe, pools)):
        rows = [{"source": pickle.dumps(source)} for source in sources]
        splits = ray.data.from_items(rows, override_num_blocks=min(len(rows), 1000))
        if recipe.input.layout == "scattered":
            splits = _gathered(splits, job, committed, attempts)
        else:
            name, scorer = next(iter(recipe.named_scorers.items()))
            splits = splits.map_batches(_read(recipe, committed, attempts), num_cpus=READ_CPUS, **_WHOLE)
            splits = splits.map_batches(Encode(recipe.input, name, scorer, job.keep), num_cpus=ENCODE_CPUS, **_WHOLE)
        return _score_and_write(splits, job, pools, attempts)


def commits(dataset: Dataset) -> Iterator[Commit]:
    """Runs a pipeline and yields the record of each split as it is committed."""
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for record in block.column("commit").to_pylist():
            yield msgspec.json.decode(record, type=Commit)


def _context(recipe: Recipe, pools: list[Pool]) -> DataContext:
    """Ray Data's settings for a run."""
    context = DataContext.get_current().copy()
    # Blocks are cut between rows, and a row is a split: with this every split becomes a block of its own. Before a
    # shuffle rows are candidates, and blocks are as large as splits.
    context.target_max_block_size = recipe.input.split_bytes if recipe.input.layout == "scattered" else 1
    # Reading is faster than scoring. Memory is bounded by what the stages hold at a time, not by the input.
    in_flight = 2 + sum(pool.max * (1 + recipe.compute.splits_in_flight) for pool in pools)
    limit = 4 * recipe.input.split_bytes * in_flight
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=limit)
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = recipe.limits.no_progress_s
    context.print_on_execution_start = False
    # A model hub that is away for a minute must not end a run of days. A storage is waited for where it is used.
    context.retried_map_errors = ["ConnectionError: ", "TimeoutError: "]
    context.max_map_retries = 6
    return context


def _read(recipe: Recipe, committed: frozenset[str], attempts: Any) -> Read:
    return Read(recipe.input, committed, attempts, unopened_allowed=recipe.limits.max_unopened_files > 0)


def _gathered(sources: Dataset, job: Job, committed: frozenset[str], attempts: Any) -> Dataset:
    """Reads scattered candidates and shuffles them into partitions of whole groups."""
    recipe = job.recipe
    count = partitions(job.files, recipe.input)
    name, scorer = next(iter(recipe.named_scorers.items()))
    splits = sources.map_batches(_read(recipe, frozenset(), attempts), num_cpus=READ_CPUS, **_WHOLE)
    to_rows = ToRows(recipe.input, job.folder, count, committed, job.fence)
    rows = splits.map_batches(to_rows, num_cpus=ENCODE_CPUS, **_WHOLE)
    rows = rows.repartition(count, keys=["partition"])
    gather = Gather(tuple(file.path for file in job.files), name, scorer, job.keep)
    return rows.map_batches(gather, num_cpus=ENCODE_CPUS, **_WHOLE)


def _score_and_write(splits: Dataset, job: Job, pools: list[Pool], attempts: Any) -> Dataset:
    """Scores encoded splits with every scorer in turn, and writes them."""
    recipe = job.recipe
    for index, ((name, scorer), pool) in enumerate(zip(recipe.named_scorers.items(), pools, strict=True)):
        if index > 0:
            splits = splits.map_batches(EncodeNext(name, scorer), num_cpus=ENCODE_CPUS, **_WHOLE)
        splits = splits.map_batches(
            Score,
            fn_constructor_kwargs={
                "name": name,
                "config": scorer,
                "fingerprint": job.fingerprints[name],
                "attempts": attempts,
                "max_attempts": recipe.limits.max_attempts,
                "threads": pool.threads,
                "ranks": pool.ranks,
                "verify": recipe.verify,
                "names": tuple(recipe.named_scorers),
            },
            compute=ActorPoolStrategy(
                min_size=pool.min,
                max_size=pool.max,
                initial_size=pool.initial,
                max_tasks_in_flight_per_actor=1 + recipe.compute.splits_in_flight,
            ),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            accelerator_type=recipe.compute.accelerator_type if pool.gpus else None,
            # Ray Data wants to be told a number where there are GPUs. One row is one split, and so one block.
            batch_size=1 if pool.gpus else None,
            batch_format="pyarrow",
        )
    generation = job.keep.generation if job.keep is not None else 1
    write = Write(job.folder, tuple(recipe.named_scorers), generation, attempts, job.fence)
    return splits.map_batches(write, num_cpus=WRITE_CPUS, **_WHOLE)


# A block, and so a split, is what a function gets: never several splits cut or merged to a batch size.
_WHOLE = {"batch_size": None, "batch_format": "pyarrow"}
