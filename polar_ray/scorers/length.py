"""The length baseline."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.group import Group
from polar_ray.data.status import Status
from polar_ray.recipe.scorers import Length
from polar_ray.scorers.base import CandidateScore, Scores
from polar_ray.scorers.declared import declared
from polar_ray.scorers.sight import Sight, score_seen


class LengthScorer:
    """Rewards the number of characters (Unicode code points) of a candidate's text.

    The text is the contents of the candidate's messages joined by newlines; an empty candidate has reward 0.
    """

    extras: tuple[str, ...] = ()
    sight = Sight()

    @classmethod
    def from_config(cls, config: Length) -> "LengthScorer":
        """Makes the scorer; there is nothing to load."""
        return cls()

    @staticmethod
    def fingerprint(config: Length) -> dict[str, str]:
        """Returns what can change a score, by name."""
        return declared(config) | {"code": "length/1"}

    def score_table(self, groups: pa.Table, encoded: pa.Table | None = None) -> Scores:
        """Scores a table with ``GROUP_SCHEMA`` without making a Python object for a candidate."""
        chunks = groups.column("candidates").chunks
        characters = [_characters(chunk.flatten().field("messages")) for chunk in chunks]
        reward = pa.array(np.concatenate([np.zeros(0, np.float32), *characters]))
        return Scores(
            reward=reward,
            status=pa.repeat(pa.scalar(Status.OK.value, pa.string()), len(reward)),
            tokens=pa.nulls(len(reward), pa.int32()),
            error=pa.nulls(len(reward), pa.string()),
        )

    def score(self, groups: list[Group]) -> list[list[CandidateScore]]:
        """Scores groups in Python: one list per group, aligned with its candidates."""
        return [score_seen(group, self.sight, _lengths) for group in groups]


def _lengths(group: Group) -> list[CandidateScore]:
    return [CandidateScore(reward=float(len(candidate.text))) for candidate in group.candidates]


def _characters(messages: pa.ListArray) -> np.ndarray:
    """Returns the characters of each list of messages when joined by newlines, as float32."""
    count = pc.list_value_length(messages).to_numpy(zero_copy_only=False).astype(np.int64)
    content = messages.flatten().field("content")
    characters = pc.utf8_length(content).to_numpy(zero_copy_only=False).astype(np.int64)
    total = np.concatenate([[0], np.cumsum(characters)])
    end = np.cumsum(count)
    joined: np.ndarray = total[end] - total[end - count] + np.maximum(count - 1, 0)
    return joined.astype(np.float32)
