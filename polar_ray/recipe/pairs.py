"""Which pairs of candidates are made, and which of them are kept."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from polar_ray.recipe.base import Part


class BestVsWorst(Part):
    """The best against the worst."""

    kind: Literal["best_vs_worst"] = "best_vs_worst"


class BestVsSecond(Part):
    """The best against the one after it."""

    kind: Literal["best_vs_second"] = "best_vs_second"


class BestVsRandom(Part):
    """The best against another, drawn from the seed and the prompt's id alone."""

    kind: Literal["best_vs_random"] = "best_vs_random"


class Adjacent(Part):
    """Each against the one after it."""

    kind: Literal["adjacent"] = "adjacent"


class TopVsBottom(Part):
    """Each of the k best against each of the k worst; of fewer than 2 k candidates, the better half and the worse."""

    kind: Literal["top_vs_bottom"] = "top_vs_bottom"
    k: int = Field(default=2, ge=1)


class AllPairs(Part):
    """Each against all after it. Needs ``per_prompt``, as 500 candidates make 124,750 pairs."""

    kind: Literal["all_pairs"] = "all_pairs"


class BestVsQuantile(Part):
    """The best against the candidate at a quantile of the prompt's rewards: 0 is the worst, 0.5 the median.

    Between two candidates the worse is taken.
    """

    kind: Literal["best_vs_quantile"] = "best_vs_quantile"
    quantile: float = Field(default=0.1, ge=0, lt=1)


class BestVsSigma(Part):
    """The best against the candidate whose reward is closest to mean - ``sigmas`` x standard deviation.

    Mean and (population) standard deviation are those of the prompt's candidates. With many candidates the worst makes
    a poor rejected answer; Xiao et al. (Finding the Sweet Spot, arXiv 2502.16825) find two standard deviations below
    the mean best.
    """

    kind: Literal["best_vs_sigma"] = "best_vs_sigma"
    sigmas: float = Field(default=2.0, ge=0)


class LengthMatched(Part):
    """Of all pairs whose texts are about equally long, the one with the widest margin (or more, by ``per_prompt``).

    Attributes:
        max_ratio: Characters of the longer text over those of the shorter.
    """

    kind: Literal["length_matched"] = "length_matched"
    max_ratio: float = Field(default=1.1, ge=1)


Strategy = (
    BestVsWorst
    | BestVsSecond
    | BestVsRandom
    | Adjacent
    | TopVsBottom
    | AllPairs
    | BestVsQuantile
    | BestVsSigma
    | LengthMatched
)


class ReferenceReward(Part):
    """Where the reward of the reference itself is. Exactly one of the three is given.

    Attributes:
        column: A numeric column of the score table with one value per prompt.
        candidate_id: The reference was scored as the candidate with this id.
        model: The reference was scored as the candidate of this model (of several, the best counts).

    A candidate that stands for the reference is not used in pairs.
    """

    column: str | None = None
    candidate_id: str | None = None
    model: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "ReferenceReward":
        if sum(value is not None for value in (self.column, self.candidate_id, self.model)) != 1:
            raise ValueError("give exactly one of column, candidate_id and model")
        return self


class Pairs(Part):
    """Which pairs are proposed, which of them are dropped, and how many are kept.

    Attributes:
        strategy: What is proposed.
        tie_break: How candidates with equal rewards are put in order, from which strategies take them: as the table has
            them, the shortest text first, or at random from the seed.
        ties: Whether a pair of equal rewards is made at all; ``keep`` makes the one that is first in the order chosen.
        min_margin: Smallest difference of the rewards, whose own rounding to float32 does not count against it.
        max_margin: Largest difference, likewise.
        min_chosen: Lowest reward of the chosen one.
        above_reference: The chosen one's reward must be above the reference's own.
        min_sigmas: The margin must be at least this many standard deviations of the difference:
            sqrt(sigma_chosen^2 + sigma_rejected^2).
        agreement: Scorers that must put the chosen one above the rejected one as well.
        max_length_ratio: Characters of the longer text over those of the shorter, at most.
        max_similarity: Similarity of the two texts in [0, 1], at most; see ``candidates.max_similarity``.
        equal_texts: Whether a pair of equal texts is made.
        per_prompt: Most pairs of one prompt; None is all that are proposed.
        prefer: Which are kept where there are more.
    """

    strategy: Annotated[Strategy, Field(discriminator="kind")] = BestVsWorst()
    tie_break: Literal["first", "shortest", "random"] = "first"
    ties: Literal["drop", "keep"] = "drop"
    min_margin: float = Field(default=0.0, ge=0)
    max_margin: float | None = Field(default=None, ge=0)
    min_chosen: float | None = None
    above_reference: ReferenceReward | None = None
    min_sigmas: float | None = Field(default=None, gt=0)
    agreement: list[str] = []
    max_length_ratio: float | None = Field(default=None, ge=1)
    max_similarity: float | None = Field(default=None, ge=0, lt=1)
    equal_texts: Literal["drop", "keep"] = "drop"
    per_prompt: int | None = Field(default=None, ge=1)
    prefer: Literal["widest", "narrowest", "random"] = "widest"

    @model_validator(mode="after")
    def _capped(self) -> "Pairs":
        if isinstance(self.strategy, AllPairs) and self.per_prompt is None:
            raise ValueError("all_pairs needs per_prompt, the most pairs to keep of one prompt")
        return self

    @property
    def cap(self) -> int | None:
        """Most pairs of one prompt."""
        if self.per_prompt is None and isinstance(self.strategy, LengthMatched):
            return 1
        return self.per_prompt

    @property
    def length_ratio(self) -> float | None:
        """Largest length ratio, by the filter or the strategy."""
        ratios = [self.max_length_ratio, self.strategy.max_ratio if isinstance(self.strategy, LengthMatched) else None]
        return min((ratio for ratio in ratios if ratio is not None), default=None)
