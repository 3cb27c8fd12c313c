"""Closeness to the reference, computed from text: the scorer that needs no weights."""

from collections.abc import Callable
from importlib.metadata import version
from statistics import fmean
from unicodedata import unidata_version

from polar_ray.data.group import Candidate, Group
from polar_ray.data.status import Status
from polar_ray.recipe.scorers import TextCloseness
from polar_ray.scorers.base import CandidateScore
from polar_ray.scorers.declared import declared
from polar_ray.scorers.final_answer import candidate_answer, reference_answer
from polar_ray.scorers.math_verifier import MathVerifier, Verdict
from polar_ray.scorers.sight import Sight
from polar_ray.scorers.text_scorer import TextScorer
from polar_ray.scorers.text_similarity import ReferenceText

SCORING_CODE = "text_closeness/1"
"""Version of the code that turns groups into scores. It changes when the same input gets another score."""
_LIBRARIES = ("math-verify", "latex2sympy2_extended", "sympy")


class TextClosenessScorer(TextScorer):
    """Rewards lexical closeness to the reference: how much text is shared, and whether the final answer is right.

    This says nothing of quality beyond the reference: a good answer in other words scores low, and a copy of the
    reference with its point negated scores high. It needs no model and no network.

    With ``s`` the similarity of ``text_similarity`` in [0, 1], the reward is in [0, 1]:

    | the reference ends in | the candidate's final answer | reward |
    | --- | --- | --- |
    | no mathematical answer | | ``s`` |
    | a mathematical answer | right | ``0.5 + 0.5 s`` |
    | a mathematical answer | wrong or not given | ``0.49 s`` |

    so a right answer always beats a wrong one, and similarity orders the candidates inside either class. What counts as
    a mathematical answer is said in ``final_answer``; answers are compared by math-verify, the reference's first.

    A group without a reference (or with empty ones only) gets the status ``no_reference``. A comparison of answers that
    takes too long gives ``timeout``, never a wrong answer. No text is cut, so no candidate is ``truncated``: time grows
    with the length of the text.

    ``extras``: ``similarity`` is ``s``; ``answer_match`` is 1 or 0, null without a mathematical answer. With several
    references they belong to the reference that gave the reward, or are means where the reward is a mean.
    """

    extras: tuple[str, ...] = ("similarity", "answer_match")
    sight = Sight(references=True)

    def __init__(self, config: TextCloseness) -> None:
        self.config = config
        self._verifier = MathVerifier(config.timeout_s)

    @classmethod
    def from_config(cls, config: TextCloseness) -> "TextClosenessScorer":
        """Makes the scorer; there is nothing to load."""
        return cls(config)

    @staticmethod
    def fingerprint(config: TextCloseness) -> dict[str, str]:
        """Returns what can change a score, by name: settings, scoring code and the libraries that compare answers."""
        return (
            {"kind": config.kind, "scoring_code": SCORING_CODE, "unicode": unidata_version}
            | declared(config)
            | {f"library:{name}": version(name) for name in _LIBRARIES}
        )

    def close(self) -> None:
        """Ends the process that compares answers, if it was needed."""
        self._verifier.close()

    def score_group(self, group: Group) -> list[CandidateScore]:
        """Returns one score per candidate of the group, in their order.

        Raises:
            ScoringError: The process that compares answers cannot be started.
        """
        texts = ["\n".join(message.content for message in reference) for reference in group.references]
        texts = [text for text in texts if text.strip()]
        if not texts:
            return [CandidateScore(None, Status.NO_REFERENCE)] * len(group.candidates)
        if self.config.references == "first":
            texts = texts[:1]
        budget = _Budget(self._verifier, self.config.group_timeout_s)
        references = [_Reference(text, budget, self.config.math) for text in texts]
        # Samplers repeat themselves: a text that occurs twice in a group is scored once.
        known: dict[str, CandidateScore] = {}
        return [self._score(candidate, references, known) for candidate in group.candidates]

    def _score(
        self, candidate: Candidate, references: "list[_Reference]", known: dict[str, CandidateScore]
    ) -> CandidateScore:
        text = candidate.text
        if text not in known:
            scores = [reference.score(text) for reference in references]
            failed = next((score for score in scores if not score.status.has_reward), None)
            if failed is not None:
                known[text] = failed
            elif self.config.references == "mean":
                known[text] = _mean(scores)
            else:
                known[text] = max(scores, key=_reward)
        return known[text]


class _Budget:
    """What a group may still ask of math-verify. Processor time counts, so that a busy machine takes nothing away."""

    def __init__(self, verifier: MathVerifier, seconds: float) -> None:
        self._verifier = verifier
        self._seconds = self._left = seconds

    def is_expression(self, gold: str) -> Verdict:
        """Asks as ``MathVerifier`` does."""
        return self._charged(lambda: self._verifier.is_expression(gold))

    def equal(self, gold: str, answer: str) -> Verdict:
        """Asks as ``MathVerifier`` does, or gives ``timeout`` where nothing is left."""
        return self._charged(lambda: self._verifier.equal(gold, answer))

    def _charged(self, ask: Callable[[], Verdict]) -> Verdict:
        if self._left <= 0:
            message = f"math-verify took more than {self._seconds:g} s of processor time for the group"
            return Verdict(False, Status.TIMEOUT, message)
        verdict = ask()
        self._left -= verdict.seconds
        return verdict


class _Reference:
    """One reference and what is known of it."""

    def __init__(self, text: str, verifier: _Budget, use_math: bool) -> None:
        self._text = ReferenceText(text)
        self._verifier = verifier
        self._verdicts: dict[str, Verdict] = {}
        self._gold = reference_answer(text) if use_math else None
        self._gold_verdict = Verdict(False) if self._gold is None else verifier.is_expression(self._gold)
        self._is_math = self._gold_verdict.holds or self._gold_verdict.status is not Status.OK

    def score(self, text: str) -> CandidateScore:
        """Returns the score of a candidate's text against this reference alone."""
        similarity = self._text.similarity(text)
        extras: dict[str, float | None] = {"similarity": similarity, "answer_match": None}
        if not self._is_math:
            return CandidateScore(similarity, extras=extras)
        verdict = self._verdict(text) if self._gold_verdict.holds else self._gold_verdict
        if verdict.status is not Status.OK:
            return CandidateScore(None, verdict.status, error=verdict.error, extras=extras)
        reward = 0.5 + 0.5 * similarity if verdict.holds else 0.49 * similarity
        return CandidateScore(reward, extras=extras | {"answer_match": float(verdict.holds)})

    def _verdict(self, text: str) -> Verdict:
        answer = candidate_answer(text)
        if answer is None or self._gold is None:
            return Verdict(False)
        # Candidates often agree on an answer, and one that takes too long need not do so again.
        if answer not in self._verdicts:
            self._verdicts[answer] = self._verifier.equal(self._gold, answer)
        return self._verdicts[answer]


def _reward(score: CandidateScore) -> float:
    assert score.reward is not None
    return score.reward


def _mean(scores: list[CandidateScore]) -> CandidateScore:
    """Returns the mean of scores that all have a reward; of an extra, the mean over those that have it."""
    extras: dict[str, float | None] = {}
    for name in TextClosenessScorer.extras:
        values = [value for score in scores if (value := score.extras[name]) is not None]
        extras[name] = fmean(values) if values else None
    return CandidateScore(fmean(map(_reward, scores)), extras=extras)
