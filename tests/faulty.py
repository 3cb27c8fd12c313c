"""Scorers that misbehave on purpose, for the tests of faults. Each rewards a candidate's length where it behaves."""

import builtins
import os
import time
from pathlib import Path

from polar_ray.data.group import Group
from polar_ray.data.status import Status
from polar_ray.errors import CheckpointError, PolarRayError, RecipeError
from polar_ray.scorers.base import CandidateScore
from polar_ray.scorers.text_scorer import TextScorer


def by_length(group: Group) -> list[CandidateScore]:
    return [CandidateScore(float(len(candidate.text))) for candidate in group.candidates]


class Slow(TextScorer):
    """Takes its time over every group."""

    def __init__(self, seconds: float = 0.02) -> None:
        self._seconds = seconds

    def score_group(self, group: Group) -> list[CandidateScore]:
        time.sleep(self._seconds)
        return by_length(group)


class Poisoned(TextScorer):
    """Dies, like a segmentation fault would make it, on any group whose prompt says ``poison``.

    With a ``diary`` each death leaves a line in that file: the prompt that it died of.
    """

    def __init__(self, diary: str | None = None) -> None:
        self._diary = diary

    def score_group(self, group: Group) -> list[CandidateScore]:
        if "poison" in group.prompt[0].content:
            if self._diary is not None:
                with open(self._diary, "a", encoding="utf-8") as file:
                    file.write(group.prompt[0].content + "\n")
            os._exit(139)
        return by_length(group)


class DiesOnce(TextScorer):
    """Dies on its first group, once in the lifetime of a marker file."""

    def __init__(self, marker: str) -> None:
        self._marker = Path(marker)

    def score_group(self, group: Group) -> list[CandidateScore]:
        if not self._marker.exists():
            self._marker.touch()
            os._exit(139)
        return by_length(group)


class Raises(TextScorer):
    """Raises on groups whose prompt says ``bad``; with ``always`` on all."""

    def __init__(self, always: bool = False) -> None:
        self._always = always

    def score_group(self, group: Group) -> list[CandidateScore]:
        if self._always or "bad" in group.prompt[0].content:
            raise ValueError("no number in this answer")
        return by_length(group)


class CannotStart(TextScorer):
    """Fails when it is made, as a scorer does whose model is broken."""

    def __init__(self) -> None:
        raise CheckpointError("model.safetensors has no v_head.weight")

    def score_group(self, group: Group) -> list[CandidateScore]:
        raise AssertionError("is never made")


class DiesStarting(TextScorer):
    """Dies while it is made, as a scorer does whose model does not fit into memory."""

    def __init__(self) -> None:
        os._exit(137)

    def score_group(self, group: Group) -> list[CandidateScore]:
        raise AssertionError("is never made")


class CannotWork(TextScorer):
    """Finds out at its first group that it cannot work at all."""

    def score_group(self, group: Group) -> list[CandidateScore]:
        raise CheckpointError("model.safetensors was deleted")


class Hangs(TextScorer):
    """Never comes back."""

    def score_group(self, group: Group) -> list[CandidateScore]:
        time.sleep(3600)
        return by_length(group)


class Flaky(TextScorer):
    """Raises on groups whose prompt says ``bad`` until the file ``mended`` is there; notes whom it scores."""

    def __init__(self, mended: str, diary: str, add: float = 0) -> None:
        self._mended = Path(mended)
        self._diary = diary
        self._add = add

    def score_group(self, group: Group) -> list[CandidateScore]:
        with open(self._diary, "a", encoding="utf-8") as file:
            file.write(group.prompt[0].content + "\n")
        if "bad" in group.prompt[0].content and not self._mended.exists():
            raise ValueError("not mended yet")
        return [CandidateScore(score.reward + self._add) for score in by_length(group) if score.reward is not None]


class Miscounts(TextScorer):
    """Gives one score too many for groups whose prompt says ``bad``, and NaN for those that say ``odd``."""

    def score_group(self, group: Group) -> list[CandidateScore]:
        if "bad" in group.prompt[0].content:
            return [CandidateScore(-1.0), *by_length(group)]
        if "odd" in group.prompt[0].content:
            return [CandidateScore(float("nan")), *by_length(group)[1:]]
        return by_length(group)


class AddsRank(TextScorer):
    """Adds a column under a name that the score table has."""

    extras = ("rank",)

    def score_group(self, group: Group) -> list[CandidateScore]:
        return [CandidateScore(1.0, extras={"rank": 7.0})] * len(group.candidates)


class SickOnce(TextScorer):
    """Raises on every group in the first process that makes it, as a model does whose device has failed."""

    def __init__(self, marker: str) -> None:
        self._sick = not Path(marker).exists()
        Path(marker).touch()

    def score_group(self, group: Group) -> list[CandidateScore]:
        if self._sick:
            raise RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")
        return by_length(group)


class HalfSickOnce(TextScorer):
    """Raises on every other group in the first process that makes it, and in that one from its third group on."""

    def __init__(self, marker: str) -> None:
        self._sick = not Path(marker).exists()
        Path(marker).touch()
        self._groups = 0

    def score_group(self, group: Group) -> list[CandidateScore]:
        self._groups += 1
        if self._sick and self._groups > 2 and self._groups % 2:
            raise RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")
        return by_length(group)


class Keyed(TextScorer):
    """Needs a key, as a judge behind a network does; with ``says`` its errors repeat the key, as such judges' do."""

    def __init__(self, key: str, nested: object = None, says: bool = False, fails: str | None = None) -> None:
        if fails is not None:
            raise TypeError(f"{fails!s} is no mode")
        self.key, self._says = key, says

    def score_group(self, group: Group) -> list[CandidateScore]:
        if self._says and group.prompt_id.endswith("3"):
            raise ValueError(f"the key is {self.key}")
        if self._says and group.prompt_id.endswith("4"):
            return [CandidateScore(None, Status.ERROR, error=f"the key is {self.key}") for _ in group.candidates]
        return by_length(group)


class OfItsOwn(PolarRayError):
    """An error of a user's, which takes what it likes."""

    def __init__(self, what: str, key: str) -> None:
        super().__init__(f"{what}: {key}")


class Unmade(TextScorer):
    """Raises when it is made, and says its key."""

    def __init__(self, error: str, key: str) -> None:
        if error == "PolarRayError":
            raise OfItsOwn("no such key", key)
        raise {**vars(builtins), "RecipeError": RecipeError, "CheckpointError": CheckpointError}[error]({"key": key})

    def score_group(self, group: Group) -> list[CandidateScore]:
        raise AssertionError("it was never made")
