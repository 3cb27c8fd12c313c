"""What deriving starts from, which candidates it may use, and what it selects when it makes no pairs."""

from typing import Any, Literal

from pydantic import Field, model_validator

from polar_ray.recipe.base import Part, check_scorer_name
from polar_ray.recipe.combine import Combine
from polar_ray.recipe.paths import Path


class JoinedTable(Part):
    """The run whose rewards stand beside those of another; ``storage_options`` as for the input of a run.

    Attributes:
        scorers: Those that are taken; None takes all.
    """

    path: Path
    storage_options: dict[str, Any] = Field(default={}, repr=False)
    scorers: list[str] | None = None


class ScoreTable(Part):
    """The run whose score table is read; ``storage_options`` as for the input of a run.

    Attributes:
        scorer_name: A name for the table's only scorer, where it has none.
        join: Further runs over the same candidates, by name. Rows are found by prompt_id and candidate_id, wherever
            they lie; only rewards and what belongs to them is taken. A scorer without a name gets the run's.
        missing: What becomes of a candidate that a joined run does not have: ``error`` counts them and ends without a
            dataset, ``drop`` leaves it out and says so in the ledger.
    """

    path: Path
    storage_options: dict[str, Any] = Field(default={}, repr=False)
    scorer_name: str | None = None
    join: dict[str, JoinedTable] = {}
    missing: Literal["error", "drop"] = "error"

    @model_validator(mode="after")
    def _named(self) -> "ScoreTable":
        for name in (*self.join, *([] if self.scorer_name is None else [self.scorer_name])):
            check_scorer_name(name)
        return self


class LengthPenalty(Part):
    """Takes ``weight`` off the reward for every character or token of a candidate.

    Attributes:
        weight: In units of the reward.
        per: ``character`` counts the candidate's text, which must be read for it. ``token`` takes the score table's
            ``tokens``, without reading text: those are all ids that the model was given, so the prompt's are among
            them. That shifts all candidates of a prompt alike, and so matters only where prompts are compared.
    """

    weight: float = Field(gt=0)
    per: Literal["character", "token"] = "character"


class Reward(Part):
    """The number by which candidates are compared.

    Attributes:
        scorer: Name of the scorer, in a table with several.
        combine: Makes one reward of several scorers'.
        length_penalty: Applied first: orders, margins, thresholds and exports see the penalised reward.
        uncertainty: Name of the column in which the scorer gives the standard deviation of a reward.
    """

    scorer: str | None = None
    combine: Combine | None = None
    length_penalty: LengthPenalty | None = None
    uncertainty: str | None = None

    @model_validator(mode="after")
    def _one_reward(self) -> "Reward":
        if self.combine is None:
            return self
        if self.scorer is not None:
            raise ValueError("give either scorer or combine")
        if self.uncertainty is not None:
            raise ValueError("uncertainty is a column of one scorer; with combine use candidates.max_disagreement")
        if self.length_penalty is not None and self.length_penalty.per == "token":
            raise ValueError("tokens are those of one scorer; with combine use length_penalty.per: character")
        return self


class Candidates(Part):
    """Which candidates may be used at all. One without a reward never is.

    Attributes:
        truncated: Whether candidates are used of which the model did not see everything.
        max_uncertainty: Largest standard deviation, in units of the reward.
        max_disagreement: Largest disagreement of the scorers; see ``reward.combine``.
        empty: Whether candidates are used whose text is empty or white space. ``drop`` reads the text.
        duplicates: Of candidates of a prompt with the same text, or all of them. ``drop`` keeps the one with the
            highest reward, and reads the text.
        max_similarity: Drops a candidate that is more similar than this, in [0, 1], to one of its prompt with a higher
            reward: 1 minus the insertions and deletions between the texts over the characters of both
            (``rapidfuzz.fuzz.ratio``). Compares every two candidates of a prompt.
    """

    truncated: Literal["drop", "keep"] = "drop"
    max_uncertainty: float | None = Field(default=None, ge=0)
    max_disagreement: float | None = Field(default=None, ge=0)
    empty: Literal["drop", "keep"] = "drop"
    duplicates: Literal["drop", "keep"] = "drop"
    max_similarity: float | None = Field(default=None, ge=0, lt=1)


class BestOfN(Part):
    """Selects candidates. Each condition that is given must hold.

    Attributes:
        top_k: The best of each prompt; of equals the first. None takes any number.
        min_reward: Lowest reward.
        min_quantile: In [0, 1]: the reward is at least this quantile of the rewards of the whole table, without
            those of candidates that ``candidates`` leaves out by anything but their text.
        min_z: Lowest number of standard deviations above the mean of the prompt's candidates. Where all rewards of a
            prompt are equal it is 0.
        curve: Largest n of the N-curve (the expected best reward of n candidates) in the manifest; 0 leaves it out.
    """

    top_k: int | None = Field(default=1, ge=1)
    min_reward: float | None = None
    min_quantile: float | None = Field(default=None, ge=0, le=1)
    min_z: float | None = None
    curve: int = Field(default=256, ge=0, le=4096)


class Labels(Part):
    """Labels candidates by two thresholds: good, bad, or unsure between them.

    Attributes:
        by: The reward, or how many standard deviations it is above the mean of the prompt's candidates.
        good: Good is at least this.
        bad: Bad is at most this.
        unsure: Whether candidates between the two are written.
    """

    by: Literal["reward", "z_score"] = "reward"
    good: float
    bad: float
    unsure: Literal["drop", "keep"] = "drop"

    @model_validator(mode="after")
    def _ordered(self) -> "Labels":
        if self.bad >= self.good:
            raise ValueError(f"bad ({self.bad}) must be below good ({self.good})")
        return self
