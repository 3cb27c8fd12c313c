"""How POLAR cuts what is too long: the rules of its original client (``RewardModelClient``).

Lengths count ids including the BOS that the original puts before each of prompt, reference and candidate:

- A reference or candidate of more than ``max_response_length`` ids keeps that many, from one end. Cutting on the left
  drops the BOS, so that one more id of the text is kept than by cutting on the right.
- The prompt gets half of what is left of ``max_length`` (less 4 for the tokens in between), and keeps its tail.

What is kept is decoded to text and encoded again together with what follows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

RESERVED = 4
"""Ids that the original client keeps free for separators."""


@dataclass(frozen=True)
class PolarCut:
    """POLAR's limits. Ids are those of the text alone; BOS is counted, not passed.

    Example:
        >>> PolarCut(100, 4, "right").response([7, 8, 9, 10])
        [7, 8, 9]
    """

    max_length: int
    max_response_length: int
    side: Literal["left", "right"]

    @property
    def smallest_prompt_budget(self) -> int:
        """Ids (with BOS) that a prompt has between the longest reference and the longest candidate."""
        return (self.max_length - RESERVED - 2 * self.max_response_length) // 2

    def response(self, ids: Sequence[int]) -> Sequence[int]:
        """Returns the ids that are kept of a reference or a candidate."""
        if 1 + len(ids) <= self.max_response_length:
            return ids
        return ids[: self.max_response_length - 1] if self.side == "right" else ids[-self.max_response_length :]

    def prompt(self, ids: Sequence[int], reference_ids: Sequence[int], candidate_ids: Sequence[int]) -> Sequence[int]:
        """Returns the ids that are kept of a prompt, beside an uncut reference and candidate."""
        budget = (self.max_length - RESERVED - self._length(reference_ids) - self._length(candidate_ids)) // 2
        if 1 + len(ids) <= budget:
            return ids
        # The original's slice [-budget:] of BOS and ids: a budget of 0 keeps all, a negative one cuts the head.
        start = 1 + len(ids) - budget if budget > 0 else -budget
        return ids[max(start - 1, 0) :]

    def _length(self, ids: Sequence[int]) -> int:
        return min(1 + len(ids), self.max_response_length)
