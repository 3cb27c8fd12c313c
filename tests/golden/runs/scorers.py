"""The scorer of the golden runs that have errors. Its file is part of their fingerprint: do not change a byte of it."""

from polar_ray.data.group import Group
from polar_ray.scorers.base import CandidateScore
from polar_ray.scorers.text_scorer import TextScorer


class Refuses(TextScorer):
    """Rewards the number of words, and raises on groups whose prompt holds one of some words."""

    def __init__(self, words: list[str]) -> None:
        self._words = words

    def score_group(self, group: Group) -> list[CandidateScore]:
        if any(word in group.prompt[-1].content for word in self._words):
            raise ValueError("not that one")
        return [CandidateScore(float(len(candidate.text.split()))) for candidate in group.candidates]
