"""OpenRLHF (3c3be623), to be read with ``--data.apply_chat_template``.

Its ``--data.prompt_key`` is unset by default, and then a column ``prompt`` is ignored in silence: so the default is
whole conversations in ``chosen`` and ``rejected``. Its DPO reader takes as the prompt all but the last message of
``chosen``, so the answer must be one message. SFT rows go with ``--data.input_key input --data.output_key output``.
"""

from polar_ray.deriving.exports.rows import Columns, PairRows, PickRows, joined
from polar_ray.recipe.exports import OpenRLHF


def preference(rows: PairRows, export: OpenRLHF) -> Columns:
    """Columns for its reward-model and DPO training."""
    columns: Columns
    if export.prompt == "implicit":
        columns = {"chosen": joined(rows.prompt, rows.chosen), "rejected": joined(rows.prompt, rows.rejected)}
    else:
        columns = {"prompt": rows.prompt, "chosen": rows.chosen, "rejected": rows.rejected}
    return {**columns, "margin": rows.margin} if export.margin else columns


def sft(rows: PickRows) -> Columns:
    """Columns for its SFT."""
    return {"input": rows.prompt, "output": rows.completion}
