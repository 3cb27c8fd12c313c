"""A tick of a curation: scores the shards that are new, derives, publishes, and forgets what is too old.

Everything that a tick does can be done again: its name, its shards and so its run are written down before it begins,
and whoever comes next finishes it. What was published is decided by one write of the state.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from typing import Any, Literal

import msgspec

from polar_ray.curating import mixture
from polar_ray.curating.shards import (
    listed_shards,
    new_shards,
    retried_runs,
    run_folder,
    shards_of,
    split_by_access,
    tick_name,
)
from polar_ray.curating.state import Pending, Shard, State, Version, latest_number, read_state, write_state
from polar_ray.curating.table import write_table
from polar_ray.curating.versions import SCHEMA, Published, expired, folder_of, has_datasets, point_to, points_to, remove
from polar_ray.data.claim import Busy, Purpose
from polar_ray.data.lease import Lease
from polar_ray.data.one_writer import LEASE_S
from polar_ray.data.storage import Storage
from polar_ray.data.versioned import encode
from polar_ray.errors import InputChanged, RecipeChanged, ScorerChanged, UnopenedFile
from polar_ray.recipe.curate import CurateRecipe
from polar_ray.running.clearing import clear
from polar_ray.running.derivations import check_derivations
from polar_ray.running.inputs import checked_files
from polar_ray.running.progress import Reporter, Silent

TICK = Purpose("tick", "nothing was published", "lease_s")


@dataclass(frozen=True)
class Outcome:
    """How a tick ended.

    Attributes:
        kind: ``published``: there is a new version. ``nothing``: there was nothing to do. ``busy``: another tick works.
        text: One line for a person.
        version: The latest version's name.
    """

    kind: Literal["published", "nothing", "busy"]
    text: str
    version: str | None = None


@dataclass(frozen=True)
class _Due:
    """What there is to do.

    Attributes:
        shards: New shards, with what identifies them; of an unfinished tick if there is one.
        retried: Runs with a newer generation.
        datasets: The datasets of the latest version are not what the recipe says.
        gone: Versions that have expired.
        pointer: ``latest`` is not where it should be.
    """

    shards: dict[str, dict[str, Any]]
    retried: dict[str, int]
    datasets: bool
    gone: list[Version]
    pointer: bool

    @property
    def makes_version(self) -> bool:
        return bool(self.shards or self.retried or self.datasets)

    @property
    def any(self) -> bool:
        return bool(self.makes_version or self.gone or self.pointer)


class Curation:
    """A curation: its recipe, its output folder and a clock."""

    def __init__(
        self, recipe: CurateRecipe, *, reporter: Reporter | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._recipe = recipe
        self._out = Storage.of(recipe.output.path, recipe.output.storage_options, recipe.limits.storage_wait_s)
        self._reporter = reporter or Silent()
        self._clock = clock
        self._unopened: list[str] = []
        self._waits = False

    def tick(self) -> Outcome:
        """Does what there is to do; see ``curate``."""
        state = read_state(self._out)
        if not self._work(state).any:
            return self._checked(self._nothing(state))
        # A lease that cannot be renewed in time is lost, however long the storage is waited for elsewhere.
        wait_s = min(self._out.wait_s, self._recipe.lease_s / 3)
        leases = Storage.of(self._out.join("_curate", "lease"), self._out.options, wait_s)
        try:
            above = latest_number(self._out)
            lease = Lease.take(leases, self._recipe.lease_s, TICK, above=above, clock=self._clock)
        except Busy as busy:
            return Outcome("busy", f"another tick works since {busy.record.since} ({busy.record.owner}); nothing to do")
        published = None
        with lease:
            while (work := self._work(state := read_state(self._out))).any:
                if work.pointer and state.latest is not None:
                    lease.check()
                    point_to(self._out, state.latest)
                if work.makes_version:
                    if not work.shards:
                        # Where there is something to score, the run compares what the scorer is, not how it is set.
                        mixture.refuse_set_otherwise(self._out, self._recipe, state)
                    state = self._publish(state, work, lease)
                    published = state.latest
                if gone := expired(state.versions, self._recipe.keep, self._clock()):
                    lease.check()
                    ours = replace(self._out, guard=lease.check_lately)
                    write_state(ours, remove(ours, state, gone), lease.token)
                    self._reporter.say(f"removed {len(gone)} old versions")
        if published is None:
            return self._checked(self._nothing(state))
        return self._checked(Outcome("published", self._words(state), published.name))

    def _checked(self, outcome: Outcome) -> Outcome:
        """Says which shards were left out.

        Raises:
            UnopenedFile: More than the recipe allows. What could be done without them is done.
        """
        if not self._unopened:
            return outcome
        text = (
            f"{outcome.text}; {len(self._unopened)} shards cannot be opened, {self._unopened[0]} among them, and are "
            "left to the first tick that can"
        )
        if self._too_many_unopened:
            raise UnopenedFile(f"{text}; let this user read them, or allow them with limits.max_unopened_files")
        return replace(outcome, text=text)

    def _work(self, state: State) -> _Due:
        listed = listed_shards(self._recipe, self._out, self._clock())
        new = new_shards(listed, state)
        shards, self._unopened = split_by_access(new, self._recipe.input, self._recipe.limits.storage_wait_s)
        self._waits = False
        gone = expired(state.versions, self._recipe.keep, self._clock())
        pointer = not points_to(self._out, state.latest)
        if state.pending is not None:
            # What was begun is finished first, without what has vanished since. What cannot be opened now has not
            # vanished: without it the run would be another, and what it has scored would be scored again. Where the
            # recipe allows such files, the run goes on with what it can open of them.
            begun = {path: identity for path, identity in new.items() if path in state.pending.shards}
            closed = begun.keys() & set(self._unopened)
            if closed and (self._too_many_unopened or closed == begun.keys()):
                self._waits = True
                return _Due({}, {}, False, gone, pointer)
            shards = begun or shards
        return _Due(
            shards=shards,
            retried=retried_runs(self._out, state),
            datasets=self._recipe.over == "all"
            and bool(state.shards)
            and state.datasets != self._datasets
            and not has_datasets(self._out, state, self._recipe.policies()),
            gone=gone,
            pointer=pointer,
        )

    def _publish(self, state: State, work: _Due, lease: Lease) -> State:
        """Makes a version and returns the state with it."""
        begun = self._begin(state, work, lease)
        name = begun.tick
        # Whoever took over while this process slept finishes a tick of the same name.
        ours = replace(self._out, guard=lease.check_lately)
        again: dict[str, Shard] = {}
        for run, generation in work.retried.items():
            known = {path: shard.identity for path, shard in state.shards.items() if shard.run == run}
            again |= shards_of(self._out, run, generation, known)
        before = {**state.shards, **again} if self._recipe.over == "all" else again
        stay = {path: shard for path, shard in before.items() if path not in begun.shards}
        beside = mixture.manifests_of(self._out, stay)
        mixture.refuse_mixture(beside)
        scored = self._score(state, begun, work, lease, beside) if begun.shards else {}
        shards = {**state.shards, **again, **scored}
        table = shards if self._recipe.over == "all" else {**again, **scored}
        manifests = mixture.manifests_of(self._out, table)
        mixture.refuse_mixture(manifests)
        folder = folder_of(name)
        now = self._clock()
        runs = [manifests[key] for key in sorted(manifests)]
        manifest = write_table(ours, f"{folder}/table", self._recipe, table, runs, now)
        rows = self._derive(folder, lease)
        version = Version(name, now, sorted({shard.run for shard in table.values()}))
        published = Published(
            schema=SCHEMA,
            version=name,
            published=datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds"),
            shards=len(table),
            new=sorted(scored),
            groups=manifest.counts["groups"],
            candidates=manifest.counts["candidates"],
            datasets=rows,
            token=lease.token,
        )
        ours.write_atomic(ours.join(folder, "version.json"), encode(published))
        state = msgspec.structs.replace(
            state,
            shards=shards,
            pending=None,
            versions=[*state.versions, version],
            datasets=self._datasets,
            last_tick=name,
        )
        lease.check()
        # This write is the publication: from now on the shards count as done.
        write_state(self._out, state, lease.token)
        lease.check()
        point_to(ours, version)
        return state

    def _begin(self, state: State, work: _Due, lease: Lease) -> Pending:
        """Writes down what the tick is going to do, or finds what an earlier one was about to."""
        pending = state.pending
        if pending is not None and (not pending.shards or work.shards.keys() & pending.shards.keys()):
            self._reporter.say(f"finishing the tick of {pending.tick}")
            # Those that were scored before they were rewritten keep the identity under which they were.
            pending = Pending(
                pending.tick,
                {**work.shards, **{path: pending.shards[path] for path in work.shards if path in pending.shards}},
            )
        else:
            if pending is not None:
                clear(run_folder(replace(self._out, guard=lease.check_lately), pending.tick, 1))
            pending = Pending(tick_name(state, self._clock()), work.shards)
            if pending.shards:
                # What cannot come to anything is not begun: the next tick would have to finish it.
                folder = run_folder(self._out, pending.tick, 1)
                recipe = self._recipe.scoring(sorted(pending.shards), folder.path)
                check_derivations(recipe, None, self._recipe.datasets(folder.path, folder.path))
                checked_files(recipe, folder)
        self._write_pending(state, pending, lease)
        return pending

    def _write_pending(self, state: State, pending: Pending, lease: Lease) -> None:
        lease.check()
        write_state(self._out, msgspec.structs.replace(state, pending=pending, last_tick=pending.tick), lease.token)

    def _score(
        self, state: State, pending: Pending, work: _Due, lease: Lease, beside: mixture.Manifests
    ) -> dict[str, Shard]:
        """Scores the shards of a tick, beside the runs of some manifests, into a run, or goes on with it."""
        folder = run_folder(self._out, pending.tick, 1)
        recipe = self._recipe.scoring(sorted(pending.shards), folder.path)
        # Ray is loaded only now that there is something to score.
        from polar_ray.running.run import run

        score = partial(
            run,
            reporter=self._reporter,
            lease_s=min(LEASE_S, self._recipe.lease_s),
            check=partial(mixture.refuse_beside, beside),
        )
        try:
            try:
                score(recipe)
            except InputChanged as changed:
                self._reporter.say(f"{changed}; reading it anew")
                score(recipe)
        except ScorerChanged:
            raise
        except RecipeChanged as changed:
            self._reporter.say(f"{changed}; starting this tick's run over")
            pending = Pending(pending.tick, work.shards)
            self._write_pending(state, pending, lease)
            score(self._recipe.scoring(sorted(pending.shards), folder.path), fresh=True)
        return shards_of(self._out, pending.tick, 1, pending.shards)

    def _derive(self, folder: str, lease: Lease) -> dict[str, int]:
        """Derives the datasets of a version; returns their rows by name.

        Deriving begins by deleting what is there: whoever lost the lease meanwhile must not do that to a version that
        its successor has published.
        """
        from polar_ray.deriving.derive import derive

        place = self._out.join(folder)
        recipes = self._recipe.datasets(f"{place}/table", place)
        # A tick that was interrupted may have derived from a table that lacked a shard.
        rows = {}
        for name, recipe in recipes.items():
            lease.check()
            rows[name] = derive(recipe, fresh=True).counts["rows"]
        return rows

    @property
    def _too_many_unopened(self) -> bool:
        return len(self._unopened) > self._recipe.limits.max_unopened_files

    @property
    def _datasets(self) -> str:
        """What decides the datasets of a table."""
        policy = {"over": self._recipe.over, "datasets": self._recipe.policies()}
        return hashlib.sha256(msgspec.json.encode(policy, order="deterministic")).hexdigest()

    def _nothing(self, state: State) -> Outcome:
        if self._waits and state.pending is not None:
            name = None if state.latest is None else state.latest.name
            return Outcome(
                "nothing", f"the tick of {state.pending.tick} is not finished, and keeps what it scored", name
            )
        if (latest := state.latest) is None:
            # The first shard may be yet to come, or the path may be a wrong one: whoever reads this can tell.
            paths = self._recipe.input.path
            shown = paths if isinstance(paths, str) else ", ".join(paths)
            return Outcome("nothing", f"no shards in {shown} yet: nothing to do")
        text = f"no new shards: nothing to do; the latest version is {latest.name}"
        if changed := mixture.set_otherwise(self._out, self._recipe, state):
            text += f". The scorer is set otherwise ({changed}) than when it was scored: {mixture.REMEDY}"
        return Outcome("nothing", text, latest.name)

    def _words(self, state: State) -> str:
        latest = state.latest
        assert latest is not None
        shards = f"{len(state.shards):,} shards"
        return f"published {self._out.join(folder_of(latest.name))}, and latest.json names it; {shards} are scored"


def curate(recipe: CurateRecipe, *, reporter: Reporter | None = None) -> Outcome:
    """Runs one tick of a curation.

    Shards that are new since the tick before, or rewritten, are scored into a run of their own; then the recipe's
    datasets are derived and published as a dated version, to which ``latest.json`` moves. A tick that was interrupted
    is finished first. Of several ticks at once one works; the others return at once.

    Args:
        recipe: What to watch, score, derive and where to publish.
        reporter: Is told how it goes; nobody by default.

    Raises:
        StateError: The record of earlier ticks is damaged or gone.
        LeaseLost: This tick was taken for dead; nothing was published.
        PolarRayError: As ``run`` and ``derive``; the next tick goes on where this one stopped.
    """
    return Curation(recipe, reporter=reporter).tick()
