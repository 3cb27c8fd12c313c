"""Shards: the files of the input, which of them are new, and what a run made of each."""

import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from polar_ray.curating.state import Shard, State
from polar_ray.data.damage import can_be_opened
from polar_ray.data.generations import newest
from polar_ray.data.listing import InputFile, list_input
from polar_ray.data.storage import Storage
from polar_ray.errors import NoFiles
from polar_ray.recipe.curate import CurateRecipe
from polar_ray.recipe.input import Input
from polar_ray.running.folder import Commit, Removal, RunFolder
from polar_ray.running.identity import describe
from polar_ray.running.manifest import read_manifest
from polar_ray.running.tally import Tally

SUMS = (
    "rows",
    "rows_in_groups",
    "groups",
    "candidates",
    "part_bytes",
    "dead_letters",
    "drops",
    "statuses",
    "tokens",
)
"""What is kept of the commits of a shard."""


def listed_shards(recipe: CurateRecipe, out: Storage, now: float) -> dict[str, dict[str, Any]]:
    """Returns what identifies each shard that is there now, by its path.

    A path of the input that matches nothing is no error: the first shard may be yet to come. What lies in the output
    folder is no shard.
    """
    paths = [recipe.input.path] if isinstance(recipe.input.path, str) else recipe.input.path
    found: dict[str, InputFile] = {}
    for path in paths:
        one = recipe.input.model_copy(update={"path": path})
        try:
            found |= {file.path: file for file in list_input(one, out.wait_s, without=[out.url])}
        except NoFiles:
            continue
    # A time that lies far ahead is a wrong one, and would keep a shard out for ever. Should it still be written, it is
    # scored again when it is whole.
    return {
        path: describe(file) for path, file in sorted(found.items()) if abs(now - (file.mtime or 0)) >= recipe.min_age_s
    }


def new_shards(listed: Mapping[str, dict[str, Any]], state: State) -> dict[str, dict[str, Any]]:
    """Returns the shards that are in no score table as they are now: never seen, late, or rewritten."""
    return {
        path: identity
        for path, identity in listed.items()
        if path not in state.shards or state.shards[path].identity != identity
    }


def split_by_access(
    shards: Mapping[str, dict[str, Any]], config: Input, wait_s: float
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Returns the shards that can be opened now, and the paths of the others; a storage is waited for so long."""

    def opens(path: str) -> bool:
        return can_be_opened(Storage.of(path, config.storage_options, wait_s), path)

    with ThreadPoolExecutor(16) as pool:
        opened = dict(zip(shards, pool.map(opens, shards), strict=True))
    return {path: shards[path] for path in shards if opened[path]}, [path for path in shards if not opened[path]]


def retried_runs(out: Storage, state: State) -> dict[str, int]:
    """Returns the runs with a newer generation than the state knows, and its number."""
    known = {shard.run: shard.generation for shard in state.shards.values()}
    found = {run: newest(run_folder(out, run, 1).path, out.options, out.wait_s)[1] for run in known}
    return {run: number for run, number in found.items() if number > known[run]}


def run_folder(out: Storage, run: str, generation: int) -> RunFolder:
    """Returns the folder of a generation of a tick's run."""
    names = [] if generation == 1 else ["generations", str(generation)]
    return RunFolder(out.join("runs", run, *names), out.options, out.wait_s, out.guard)


def shards_of(out: Storage, run: str, generation: int, paths: Collection[str]) -> dict[str, Shard]:
    """Returns the shards of a finished run that are among ``paths``, by path, as the run read them.

    One that the run could not open is none of them.
    """
    folder = run_folder(out, run, generation)
    manifest = read_manifest(folder)
    removals = folder.read_records("duplicates", Removal)
    commits: dict[str, list[Commit]] = defaultdict(list)
    for commit in folder.read_commits().values():
        commits[commit.file].append(commit)
    shards = {}
    for entry in manifest.inputs:
        path = str(entry["path"])
        tally = Tally(commits[path])
        if path not in paths or tally.unopened:
            continue
        for commit in commits[path]:
            if commit.split_id in removals:
                tally.subtract(removals[commit.split_id])
        shards[path] = Shard(
            identity={key: value for key, value in entry.items() if key != "path"},
            run=run,
            generation=generation,
            file_index=commits[path][0].file_index,
            splits=tally.splits,
            counts={name: _plain(getattr(tally, name)) for name in SUMS},
        )
    return shards


def tick_name(state: State, now: float) -> str:
    """Returns a name for a tick: the time, such as ``2026-11-21T03-00-00Z``, later than any name before."""
    while (name := time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime(now))) <= state.last_tick:
        now += 1
    return name


def _plain(value: Any) -> Any:
    """Returns counters as plain dictionaries."""
    return {key: _plain(below) for key, below in value.items() if below} if isinstance(value, dict) else value
