"""Names of the score columns."""

from dataclasses import dataclass

SCORE_FIELDS = ("reward", "rank", "status", "tokens", "truncated", "error")
"""What every scorer writes, each a list aligned with ``candidates``."""


@dataclass(frozen=True)
class ScoreColumns:
    """The columns of one scorer: plain names for a recipe's single scorer (empty name), else ``reward_NAME``."""

    scorer: str = ""

    def __call__(self, field: str) -> str:
        """Returns the name of the column that holds ``field`` (``reward``, ``rank``, ``status``, ...)."""
        return f"{field}_{self.scorer}" if self.scorer else field
