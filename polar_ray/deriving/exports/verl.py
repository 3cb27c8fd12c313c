"""verl (b178a3cd5): its reward-model dataset reads prompt, chosen and rejected as text; its SFT dataset reads messages.

Both read Parquet.
"""

from polar_ray.deriving.exports.rows import Columns, PairRows, PickRows, content_of, joined


def preference(rows: PairRows) -> Columns:
    """Columns of the reward-model dataset."""
    return {
        "prompt": content_of(rows.prompt),
        "chosen": content_of(rows.chosen),
        "rejected": content_of(rows.rejected),
    }


def sft(rows: PickRows) -> Columns:
    """Columns of the multi-turn SFT dataset."""
    return {"messages": joined(rows.prompt, rows.completion)}
