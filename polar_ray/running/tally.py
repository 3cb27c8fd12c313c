"""Adds up the commit records of a run, and stops it when the sums are hopeless."""

from collections import Counter
from collections.abc import Iterable, Mapping

from polar_ray.data.dead_letters import UNOPENED, Example
from polar_ray.data.status import Status
from polar_ray.errors import ScoringError, TooManyDeadLetters, UnopenedFile
from polar_ray.recipe.input import Layout
from polar_ray.recipe.run import Limits
from polar_ray.running.folder import Commit, Removal
from polar_ray.running.lost_rows import REMEDY, are_too_many, layout_hint, reasons
from polar_ray.scorers.verification import Verification

ENOUGH = 1000
"""Rows after which a share of dead letters means something."""
ENOUGH_ERRORS = 100
"""Candidates with errors after which their share means something."""
FIRST_CANDIDATES = 100
"""Candidates without a single reward after which a run is given up."""


class Tally:
    """Sums over committed splits.

    Args:
        commits: Their records so far.
        inherited: By scorer, candidates with errors in the generation that a retry is of. As many may have them again.
        layout: Of the input.
    """

    def __init__(
        self,
        commits: Iterable[Commit] = (),
        inherited: Mapping[str, int] | None = None,
        layout: Layout = "groups",
    ) -> None:
        self._inherited = inherited or {}
        self._layout = layout
        self.splits = 0
        self.rows = self.rows_in_groups = self.groups = self.candidates = self.part_bytes = 0
        self.dead_letters: Counter[str] = Counter()
        self.examples: dict[str, Example] = {}
        self.drops: Counter[str] = Counter()
        self.statuses: dict[str, Counter[str]] = {}
        self.tokens: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.waited: Counter[str] = Counter()
        self.verified: dict[str, Verification] = {}
        self.errors: dict[str, str] = {}
        self.unopened: set[str] = set()
        self.opened: set[str] = set()
        for commit in commits:
            self.add(commit)

    def add(self, commit: Commit) -> None:
        """Adds one split."""
        self.splits += 1
        self.rows += commit.rows
        self.rows_in_groups += commit.rows_in_groups
        self.groups += commit.groups
        self.candidates += commit.candidates
        self.part_bytes += commit.part_bytes
        self.dead_letters.update(commit.dead_letters)
        self.examples = {**commit.examples, **self.examples}
        if UNOPENED in commit.dead_letters:
            self.unopened.add(commit.file)
        else:
            self.opened.add(commit.file)
        self.drops.update(commit.drops)
        for name, counts in commit.statuses.items():
            self.statuses.setdefault(name, Counter()).update(counts)
        self.tokens.update(commit.tokens)
        self.seconds.update(commit.seconds)
        self.waited.update(commit.waited)
        for name, verified in commit.verified.items():
            self.verified[name] = self.verified[name] + verified if name in self.verified else verified
        for name, message in commit.errors.items():
            self.errors.setdefault(name, message)

    def subtract(self, removal: Removal) -> None:
        """Moves the groups that were found to be duplicates to the dead letters."""
        self.groups -= removal.groups
        self.candidates -= removal.candidates
        self.rows_in_groups -= sum(removal.dead_letters.values())
        self.part_bytes -= removal.part_bytes
        self.dead_letters.update(removal.dead_letters)
        self.examples = {**removal.examples, **self.examples}
        for name, counts in removal.statuses.items():
            self.statuses[name].subtract(counts)
        self.tokens.subtract(removal.tokens)

    @property
    def dead_letter_count(self) -> int:
        """Rows that could not become groups."""
        return sum(self.dead_letters.values())

    def rewards(self, scorer: str) -> int:
        """Candidates that have a reward."""
        counts = self.statuses.get(scorer, Counter())
        return sum(count for status, count in counts.items() if Status(status).has_reward)

    def check(self, limits: Limits, *, final: bool = False) -> None:
        """Stops a run that cannot come to anything.

        Raises:
            UnopenedFile: More files could not be opened than ``limits.max_unopened_files``.
            TooManyDeadLetters: More dead letters than ``limits.max_dead_letters``.
            ScoringError: Not one of the first candidates has a reward, or more have errors than ``limits.max_errors``.
        """
        if len(self.unopened) > limits.max_unopened_files:
            raise UnopenedFile(
                f"{len(self.unopened)} files of the input cannot be opened, {min(self.unopened)} among them, more than "
                f"limits.max_unopened_files={limits.max_unopened_files} allows; put them back or let this user read "
                "them, and run the same command again"
            )
        share = limits.max_dead_letters < 1
        too_many = are_too_many(self.dead_letter_count, self.rows, limits)
        if too_many and (final or not share or self.rows >= ENOUGH):
            hint = layout_hint(self.dead_letters, self._layout)
            raise TooManyDeadLetters(
                f"{self.dead_letter_count} of the {self.rows} rows read became dead letters "
                f"({reasons(self.dead_letters, self.examples)}), more than "
                f"limits.max_dead_letters={limits.max_dead_letters:g} allows; look at dead_letters/ in the output "
                f"folder, {hint or REMEDY}, and start over with --fresh"
            )
        for name, counts in self.statuses.items():
            whose = f" from {name}" if name else ""
            if self._is_hopeless(name, final=final):
                status, _ = counts.most_common(1)[0]
                cause = f": {self.errors[name]}" if name in self.errors else ""
                raise ScoringError(
                    f"none of the {self.candidates} candidates so far has a reward{whose}; the status is mostly "
                    f"{status}{cause}. {_remedy(Status(status))}"
                )
            if self._has_too_many_errors(name, limits):
                cause = f"; one of them: {self.errors[name]}" if name in self.errors else ""
                raise ScoringError(
                    f"{errors_in(counts):,} of the {self.candidates:,} candidates so far have errors{whose}, more than "
                    f"limits.max_errors={limits.max_errors:g} allows{cause}. {_AGAIN}, or give a limit that you accept"
                )

    def failed(self, limits: Limits) -> bool:
        """Whether a run with these sums was, or would be, given up for its errors at once."""
        return any(
            self._has_too_many_errors(name, limits)
            or (self._is_hopeless(name, final=True) and any(Status(status).has_failed for status in counts))
            for name, counts in self.statuses.items()
        )

    def _is_hopeless(self, scorer: str, *, final: bool) -> bool:
        """Whether a scorer gave no reward to candidates that are enough to tell."""
        if not self.statuses[scorer]:
            return False
        inherited = min(self._inherited.get(scorer, 0), errors_in(self.statuses[scorer]))
        return self.candidates - inherited >= (1 if final else FIRST_CANDIDATES) and self.rewards(scorer) == 0

    def _has_too_many_errors(self, scorer: str, limits: Limits) -> bool:
        found = errors_in(self.statuses[scorer])
        few = limits.max_errors < 1 and found < ENOUGH_ERRORS
        return not few and found > self._inherited.get(scorer, 0) and beyond(found, self.candidates, limits)


def errors_in(statuses: Mapping[str, int]) -> int:
    """Returns how many candidates have an error, or killed their process, by the counts of their statuses."""
    return sum(count for status, count in statuses.items() if Status(status).is_error)


def beyond(errors: int, candidates: int, limits: Limits) -> bool:
    """Whether these are more errors than ``limits.max_errors`` allows."""
    return errors > (limits.max_errors * candidates if limits.max_errors < 1 else limits.max_errors)


_AGAIN = "Correct the cause and run the same command again, which keeps the rest and scores these again"
_REMEDY = {
    Status.NO_REFERENCE: (
        "This scorer compares with a reference: name the column in input.columns.reference, and start over with --fresh"
    ),
    Status.UNSUPPORTED: (
        "Leave what the scorer cannot show out of the input's messages if it is not to count, and start over with "
        "--fresh"
    ),
}


def _remedy(status: Status) -> str:
    """What to do where no candidate has a reward and most have this status."""
    return _AGAIN if status.has_failed else _REMEDY.get(status, "Correct the cause and start over with --fresh")
