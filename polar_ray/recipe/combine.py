"""How the rewards of several scorers become one."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from polar_ray.recipe.base import Part


class Normalise(Part):
    """Puts the rewards of each scorer on one scale, before they are combined.

    Of one scorer with rewards r_1 ... r_n (those that are there, of all candidates, whether or not they may be used
    afterwards):

    | method | normalised reward | where it is not defined |
    | --- | --- | --- |
    | ``z_score`` | (r - mean) / population standard deviation | 0 where all are equal, or there is one |
    | ``min_max`` | (r - min) / (max - min) | 0.5 |
    | ``rank`` | share of the others that are below it; equal ones count half | 0.5 where there is one |
    | ``none`` | r | |

    Attributes:
        method: See the table.
        over: What n counts: the candidates of the prompt, or of the whole table, which takes one pass more. The
            place of a reward in the whole table would take a sort of it, so ``rank`` is over the prompt only.
    """

    method: Literal["z_score", "min_max", "rank", "none"] = "z_score"
    over: Literal["prompt", "table"] = "prompt"

    @model_validator(mode="after")
    def _rank_inside_the_prompt(self) -> "Normalise":
        if self.method == "rank" and self.over == "table":
            raise ValueError(
                "rank is over the prompt only: over the table it would take a sort of all rewards; use z_score or "
                "min_max over the table"
            )
        return self


class Mean(Part):
    """The mean of the normalised rewards."""

    kind: Literal["mean"] = "mean"


class Weighted(Part):
    """The weighted mean: sum of w_k r_k / sum of w_k.

    Attributes:
        weights: One for each scorer, above 0.
    """

    kind: Literal["weighted"] = "weighted"
    weights: dict[str, Annotated[float, Field(gt=0)]]


class Minimum(Part):
    """The lowest: worst-case optimisation of Coste et al. (arXiv 2310.02743)."""

    kind: Literal["minimum"] = "minimum"


class MeanMinusStd(Part):
    """mean - factor x population standard deviation, as in RewardBench's ensembles.

    Attributes:
        factor: The price of disagreement.
    """

    kind: Literal["mean_minus_std"] = "mean_minus_std"
    factor: float = Field(default=1.0, ge=0)


class MeanMinusVariance(Part):
    """mean - factor x population variance: uncertainty-weighted optimisation of Coste et al. (arXiv 2310.02743).

    Attributes:
        factor: Called lambda there.
    """

    kind: Literal["mean_minus_variance"] = "mean_minus_variance"
    factor: float = Field(default=1.0, ge=0)


class Vote(Part):
    """Plurality: each scorer has one vote for its best candidate of the prompt, which equals share.

    The reward is the share of the votes, in [0, 1]. Only candidates that get a combined reward stand for election, and
    a scorer votes where it gave one of them a reward. Normalising would change nothing.
    """

    kind: Literal["vote"] = "vote"


By = Mean | Weighted | Minimum | MeanMinusStd | MeanMinusVariance | Vote


class Combine(Part):
    """One reward made of several scorers' rewards, rounded to float32 as every reward is.

    The disagreement about a candidate is the population standard deviation of what is combined: of its normalised
    rewards, or of the votes that it got. It is not known where fewer than two scorers have a say.

    Attributes:
        scorers: At least two, by name.
        normalise: Before combining.
        by: How the normalised rewards become one.
        missing: A candidate that lacks the reward of a scorer: ``drop`` gives it no combined reward, ``ignore``
            combines those that it has.
    """

    scorers: list[str] = Field(min_length=2)
    normalise: Normalise = Normalise()
    by: Annotated[By, Field(discriminator="kind")] = Mean()
    missing: Literal["drop", "ignore"] = "drop"

    @model_validator(mode="after")
    def _consistent(self) -> "Combine":
        if len(set(self.scorers)) < len(self.scorers):
            raise ValueError(f"scorers names one twice: {', '.join(self.scorers)}")
        if isinstance(self.by, Weighted) and set(self.by.weights) != set(self.scorers):
            raise ValueError(f"by.weights must have one weight for each of {', '.join(self.scorers)}")
        if isinstance(self.by, Vote) and self.normalise != Normalise():
            raise ValueError("a vote looks at each scorer's order alone, so leave normalise out")
        return self

    @property
    def needs_table(self) -> bool:
        """Whether something must be known of the whole table first."""
        return self.normalise.over == "table" and self.normalise.method != "none"
