"""Versions: what a curation publishes, the pointer to the latest, and how old ones go.

versions/2026-11-21T03-00-00Z/table/         the score table
versions/2026-11-21T03-00-00Z/pairs/         a derived dataset for each name in ``derive``
versions/2026-11-21T03-00-00Z/version.json   written last: what is in it
latest.json                                  names the latest version; object stores have no symbolic links
"""

import re
from typing import Any

import msgspec

from polar_ray.curating.shards import run_folder
from polar_ray.curating.state import State, Version
from polar_ray.data.own_files import Own, delete_own
from polar_ray.data.scores import LISTED
from polar_ray.data.storage import Storage
from polar_ray.data.versioned import decode, encode
from polar_ray.deriving.derived_folder import DerivedFolder
from polar_ray.errors import NotFinished
from polar_ray.recipe.curate import Retention
from polar_ray.recipe.derive import completed_policy
from polar_ray.running.clearing import check_clearable, clear

SCHEMA = 1


OWN = (
    # The description first: a version without it is none.
    Own("", "version.json"),
    Own("table", r"manifest\.json"),
    Own("table", re.escape(LISTED)),
)
"""All files of a version but those of its datasets, in the order in which they are deleted."""


class Latest(msgspec.Struct, frozen=True):
    """What ``latest.json`` says.

    Attributes:
        version: The version's name.
        path: Its folder, from the folder in which ``latest.json`` lies.
    """

    schema: int
    version: str
    path: str


class Published(msgspec.Struct, frozen=True):
    """What ``version.json`` says.

    Attributes:
        published: ISO 8601.
        shards: Of the score table that it was derived from.
        new: Paths of those that this version's tick scored.
        groups: In that table.
        candidates: In that table.
        datasets: Rows of each derived dataset, by name.
        token: Of the lease under which it was made.
    """

    schema: int
    version: str
    published: str
    shards: int
    new: list[str]
    groups: int
    candidates: int
    datasets: dict[str, int]
    token: int


def folder_of(version: str) -> str:
    """Returns a version's folder, from the output folder."""
    return f"versions/{version}"


def latest_version(path: str, *, storage_options: dict[str, Any] | None = None) -> str:
    """Returns the folder of the latest version of a curation.

    Args:
        path: The curation's output folder.
        storage_options: As in a recipe.

    Raises:
        NotFinished: No version was published yet.

    Example:
        >>> pairs = datasets.load_dataset(latest_version("out/curated") + "/pairs")
    """
    out = Storage.of(path, storage_options)
    try:
        latest = _pointer(out)
    except FileNotFoundError:
        raise NotFinished(f"{path} has no latest.json: no version was published there yet") from None
    return out.join(latest.path)


def point_to(out: Storage, version: Version) -> None:
    """Moves ``latest`` to a version."""
    latest = Latest(SCHEMA, version.name, folder_of(version.name))
    out.write_atomic(out.join("latest.json"), encode(latest))


def points_to(out: Storage, version: Version | None) -> bool:
    """Whether ``latest`` is where the state says: a tick may have ended in between."""
    path = out.join("latest.json")
    if version is None or not out.is_file(path):
        return version is None
    return _pointer(out).version == version.name


def _pointer(out: Storage) -> Latest:
    return decode(
        out,
        out.join("latest.json"),
        Latest,
        SCHEMA,
        "delete it, and the next tick writes it anew; it scores nothing again",
    )


def has_datasets(out: Storage, state: State, policies: dict[str, dict[str, Any]]) -> bool:
    """Whether the latest version has these datasets, derived from all current shards.

    An earlier version of polar_ray may have derived them, which knew fewer settings.
    """
    latest = state.latest
    if latest is None or set(latest.runs) != {shard.run for shard in state.shards.values()}:
        return False
    found = {}
    for name in policies:
        dataset = DerivedFolder(out.join(folder_of(latest.name), name), out.options, out.wait_s)
        if not dataset.is_finished():
            return False
        found[name] = completed_policy(dataset.read_manifest().recipe)
    return found == policies


def expired(versions: list[Version], keep: Retention, now: float) -> list[Version]:
    """Returns the versions that go: too many or too old, replaced long enough ago, and never the latest."""
    gone = []
    for place, version in enumerate(versions[:-1]):
        replaced = versions[place + 1].published
        too_many = place < len(versions) - keep.versions
        too_old = keep.age_days is not None and now - version.published > keep.age_days * 86400
        if (too_many or too_old) and now - replaced > keep.grace_h * 3600:
            gone.append(version)
    return gone


def remove(out: Storage, state: State, gone: list[Version]) -> State:
    """Deletes versions, and runs that no other version and no current shard needs; returns the state without them.

    Its guard, if it has one, is asked before each file.
    """
    kept = [version for version in state.versions if version not in gone]
    needed = {shard.run for shard in state.shards.values()}.union(*(version.runs for version in kept))
    runs = [run_folder(out, run, 1) for run in sorted({run for version in gone for run in version.runs} - needed)]
    for run in runs:
        check_clearable(run)
    for version in gone:
        _remove(out, folder_of(version.name))
    for run in runs:
        clear(run)
        out.delete_empty(run.path)
    return msgspec.structs.replace(state, versions=kept)


def _remove(out: Storage, folder: str) -> None:
    """Deletes what a curation wrote into a version's folder, and the folder if nothing else is in it."""
    top, marker = out.join(folder), "/_derive/derive.json"
    datasets = [
        DerivedFolder(info.path.removesuffix(marker), out.options, out.wait_s, out.guard)
        for info in out.list(top)
        if info.path.endswith(marker) and info.path.count("/") == f"{top}/NAME{marker}".count("/")
    ]
    for dataset in datasets:
        dataset.check_clearable()
    delete_own(out, top, OWN)
    for dataset in datasets:
        dataset.clear()
    out.delete_empty(top)
