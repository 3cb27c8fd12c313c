"""The Ray Data graph of a run."""

import pickle
from collections.abc import Iterator

import msgspec
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from polar_ray.data.sources import Source
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.attempts import start_attempt_log
from polar_ray.running.cluster import ENCODE_CPUS, READ_CPUS, WRITE_CPUS, Pool
from polar_ray.running.folder import Commit, RunFolder
from polar_ray.running.scoring import Score
from polar_ray.running.stages import Encode, EncodeNext, Read, Write


def context(recipe: Recipe) -> DataContext:
    """Returns Ray Data's settings for a run."""
    context = DataContext.get_current().copy()
    # Every split becomes a block of its own: blocks are cut at rows, and a row is a split.
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = recipe.limits.no_progress_s
    context.print_on_execution_start = False
    return context


def dataset(
    recipe: Recipe, folder: RunFolder, sources: list[Source], committed: frozenset[str], pools: list[Pool]
) -> Dataset:
    """Returns the pipeline from sources to commit records; running it writes the parts.

    Args:
        sources: What is still to be read.
        committed: Splits that are done; they are not read again.
        pools: One for each of the recipe's scorers.
    """
    rows = [{"source": pickle.dumps(source)} for source in sources]
    splits = ray.data.from_items(rows, override_num_blocks=min(len(rows), 1000))
    splits = splits.map_batches(Read(recipe.input, committed), num_cpus=READ_CPUS, **_WHOLE)
    return _score_and_write(splits, recipe, folder, pools)


def commits(dataset: Dataset) -> Iterator[Commit]:
    """Runs a pipeline and yields the record of each split as it is committed."""
    for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for record in block.column("commit").to_pylist():
            yield msgspec.json.decode(record, type=Commit)


def _score_and_write(splits: Dataset, recipe: Recipe, folder: RunFolder, pools: list[Pool]) -> Dataset:
    attempts = start_attempt_log()
    for index, ((name, scorer), pool) in enumerate(zip(recipe.named_scorers.items(), pools, strict=True)):
        encode = Encode(recipe.input, name, scorer) if index == 0 else EncodeNext(name, scorer)
        splits = splits.map_batches(encode, num_cpus=ENCODE_CPUS, **_WHOLE)
        splits = splits.map_batches(
            Score,
            fn_constructor_args=(name, scorer, attempts, recipe.limits.max_attempts, pool.threads),
            compute=ActorPoolStrategy(
                min_size=pool.min,
                max_size=pool.max,
                initial_size=pool.initial,
                max_tasks_in_flight_per_actor=1 + recipe.compute.splits_in_flight,
            ),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            accelerator_type=recipe.compute.accelerator_type if pool.gpus else None,
            **_WHOLE,
        )
    write = Write(folder, tuple(recipe.named_scorers))
    return splits.map_batches(write, num_cpus=WRITE_CPUS, **_WHOLE)


# A block, and so a split, is what a function gets: never several splits cut or merged to a batch size.
_WHOLE = {"batch_size": None, "batch_format": "pyarrow"}
