"""The ledger: for every prompt that gave nothing, the reason."""

from collections import Counter

import numpy as np
import pyarrow as pa

LEDGER_SCHEMA = pa.schema(
    [pa.field("prompt_id", pa.string()), pa.field("reason", pa.string()), pa.field("candidates", pa.int64())]
)

REASONS = {
    "too_few_candidates": "the prompt has fewer candidates than it takes",
    "is_reference": "the other candidates stand for the reference",
    "not_joined": "a joined run has too few of the rest",
    "no_reward": "too few candidates have a reward",
    "truncated": "of the rest, the model saw too few in full",
    "uncertain": "too few of the rest have a reward that is certain enough (or a known uncertainty)",
    "disagreement": "the scorers agree enough on too few of the rest (or too few of them have a say)",
    "not_in_format": "the export's format cannot hold the prompt, or too few of its candidates",
    "empty_text": "too few of the rest have any text",
    "duplicate_text": "too few of the rest have a text of their own",
    "similar_text": "too few of the rest are different enough from a better one",
    "tie": "the rewards of all proposed pairs are equal",
    "margin_too_small": "no proposed pair that was left has the margin",
    "margin_too_large": "no proposed pair that was left has so small a margin",
    "chosen_too_low": "no proposed pair that was left has a chosen candidate with the reward",
    "no_reference_reward": "the reference has no reward",
    "below_reference": "no chosen candidate that was left is above the reference",
    "uncertain_margin": "no proposed pair that was left has a margin beyond the uncertainty (or a known one)",
    "scorers_disagree": "the other scorers do not agree with any proposed pair that was left",
    "equal_text": "the two texts of all proposed pairs that were left are equal",
    "length_ratio": "the lengths of all proposed pairs that were left differ too much",
    "similar_pair": "the texts of all proposed pairs that were left are too similar",
    "below_threshold": "no candidate that was left reaches the thresholds",
    "unsure": "all candidates that were left lie between the two thresholds",
}
"""Every reason, in the order in which they are looked for. A prompt has the one that took the last of what it had."""

_CODES = {reason: code for code, reason in enumerate(REASONS, 1)}
_NAMES = np.array(["", *REASONS])


class Ledger:
    """Reasons of a block's prompts. A prompt that has a reason gives nothing, and keeps its first reason."""

    def __init__(self, groups: int) -> None:
        self._codes = np.zeros(groups, np.int8)

    def close(self, groups: np.ndarray, reason: str) -> None:
        """Gives a reason to the groups (bool [G]) that have none yet."""
        self._codes[groups & (self._codes == 0)] = _CODES[reason]

    @property
    def open(self) -> np.ndarray:
        """bool [G]: the groups without a reason."""
        return np.asarray(self._codes == 0)

    def counts(self) -> Counter[str]:
        """Returns the number of prompts for each reason that occurs."""
        codes, counts = np.unique(self._codes[self._codes != 0], return_counts=True)
        return Counter(dict(zip(_NAMES[codes].tolist(), counts.tolist(), strict=True)))

    def table(self, prompt_ids: pa.StringArray, sizes: np.ndarray) -> pa.Table:
        """Returns the prompts that gave nothing, with ``LEDGER_SCHEMA``."""
        closed = np.flatnonzero(self._codes)
        columns = [
            prompt_ids.take(pa.array(closed)),
            pa.array(_NAMES[self._codes[closed]].tolist(), pa.string()),
            pa.array(sizes[closed], pa.int64()),
        ]
        return pa.Table.from_arrays(columns, schema=LEDGER_SCHEMA)
