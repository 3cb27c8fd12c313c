"""The state of a curation: which shards are scored, where, and which versions there are.

Each tick that works writes a file of its own, ``_curate/state/000000000007.json``, named by the number of its lease;
the highest one counts. So a tick that lost its lease without noticing cannot undo what its successor wrote.
"""

from typing import Any

import msgspec

from polar_ray.data.numbered import highest, numbered, numbers
from polar_ray.data.storage import Storage
from polar_ray.data.versioned import decode, encode
from polar_ray.errors import LeaseLost, StateError

SCHEMA = 1
REMEMBERED = 20
"""Old states that stay, to go back to."""


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the input whose rows are in a score table.

    Attributes:
        identity: Its size, and its etag or modification time, when the tick that scored it began. Should it have been
            rewritten since, it is scored again.
        run: The run that scored it.
        generation: Of that run.
        file_index: Position among the run's files: the first number in the names of its parts.
        splits: How many parts.
        counts: What ``Tally`` adds up over them.
    """

    identity: dict[str, Any]
    run: str
    generation: int
    file_index: int
    splits: int
    counts: dict[str, Any]


class Pending(msgspec.Struct, frozen=True):
    """A tick that was begun and has not published.

    Attributes:
        tick: Its name, which is also that of its run and of its version.
        shards: The files that it scores, with their identity when it began.
    """

    tick: str
    shards: dict[str, dict[str, Any]]


class Version(msgspec.Struct, frozen=True):
    """A published version.

    Attributes:
        name: Of its folder.
        published: Seconds since 1970.
        runs: The runs whose parts its score table names.
    """

    name: str
    published: float
    runs: list[str]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a tick knows of those before it.

    Attributes:
        shards: The current shards, by path.
        versions: Those that are there, oldest first; the last is the latest.
        pending: What is to be finished first.
        datasets: What the latest version was derived by: a hash.
        last_tick: Name of the latest tick that was begun.
    """

    schema: int = SCHEMA
    shards: dict[str, Shard] = {}
    versions: list[Version] = []
    pending: Pending | None = None
    datasets: str = ""
    last_tick: str = ""

    @property
    def latest(self) -> Version | None:
        """The version that readers get."""
        return self.versions[-1] if self.versions else None


def read_state(out: Storage) -> State:
    """Returns the newest state, or an empty one where nothing was ever curated.

    Raises:
        StateError: It is damaged, or gone although there are runs.
    """
    if number := latest_number(out):
        return decode(
            out,
            numbered(_folder(out), number),
            State,
            SCHEMA,
            "without it nobody knows which shards are done; restore it, or the one before it, from a backup, or give "
            "another output.path to score everything again",
        )
    if out.exists(out.join("runs")) or out.exists(out.join("latest.json")):
        raise StateError(
            f"{out.url} holds runs of a curation but no state in _curate/state, so nobody knows which shards are done; "
            "restore it from a backup, or give another output.path to score everything again"
        )
    return State()


def latest_number(out: Storage) -> int:
    """Returns the number of the newest state; 0 where there is none. A lease's number must be higher."""
    return highest(_folder(out))


def write_state(out: Storage, state: State, token: int) -> None:
    """Writes the state of the tick that holds the lease of this number, and forgets very old ones.

    Raises:
        LeaseLost: There is a state with a higher number, so that this one would never be read.
    """
    folder = _folder(out)
    _refuse_older(out, token)
    out.write_atomic(numbered(folder, token), encode(state))
    # What was written beside a newer one does no harm, but its writer must not take it for published.
    _refuse_older(out, token)
    for number in numbers(folder)[:-REMEMBERED]:
        out.delete(numbered(folder, number))


def _folder(out: Storage) -> Storage:
    return Storage.of(out.join("_curate", "state"), out.options, out.wait_s)


def _refuse_older(out: Storage, token: int) -> None:
    if (newest := latest_number(out)) > token:
        raise LeaseLost(
            f"{_folder(out).url} has the state of another tick with the number {newest}, and this one has {token}: it "
            "lost its lease, and nothing was published. What was scored is kept; run the same command again"
        )
