"""Rows for fine-tuning POLAR with xtuner: ``{prompt, reference, chosen, rejected}``, each a list of messages."""

from polar_ray.deriving.exports.rows import Columns, PairRows


def preference(rows: PairRows) -> Columns:
    """Columns of POLAR's train.jsonl."""
    return {"prompt": rows.prompt, "reference": rows.reference, "chosen": rows.chosen, "rejected": rows.rejected}
