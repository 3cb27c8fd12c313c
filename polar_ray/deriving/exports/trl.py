"""TRL's formats, as its ``dataset_formats`` page defines them (trl f2cd57710).

| format | columns |
| --- | --- |
| preference, conversational, explicit prompt | prompt, chosen, rejected: lists of messages |
| preference, conversational, implicit prompt | chosen, rejected: whole conversations |
| preference, standard | prompt, chosen, rejected: text |
| unpaired preference | prompt, completion, label: true or false |
| SFT | messages, or prompt and completion |

``margin`` (float) is read by RewardTrainer.
"""

import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.deriving.exports.rows import Columns, PairRows, PickRows, content_of, joined
from polar_ray.recipe.exports import TrlPreference, TrlSft, TrlUnpaired


def preference(rows: PairRows, export: TrlPreference) -> Columns:
    """Columns for DPOTrainer and RewardTrainer."""
    columns: Columns
    if export.style == "standard":
        columns = {
            "prompt": content_of(rows.prompt),
            "chosen": continuation(rows.chosen),
            "rejected": continuation(rows.rejected),
        }
    elif export.prompt == "implicit":
        columns = {"chosen": joined(rows.prompt, rows.chosen), "rejected": joined(rows.prompt, rows.rejected)}
    else:
        columns = {"prompt": rows.prompt, "chosen": rows.chosen, "rejected": rows.rejected}
    return {**columns, "margin": rows.margin} if export.margin else columns


def unpaired(rows: PickRows, export: TrlUnpaired) -> Columns:
    """Columns for KTOTrainer."""
    if export.style == "standard":
        return {
            "prompt": content_of(rows.prompt),
            "completion": continuation(rows.completion),
            "label": rows.is_good,
        }
    return {"prompt": rows.prompt, "completion": rows.completion, "label": rows.is_good}


def sft(rows: PickRows, export: TrlSft) -> Columns:
    """Columns for SFTTrainer."""
    if export.style == "messages":
        return {"messages": joined(rows.prompt, rows.completion)}
    return {"prompt": rows.prompt, "completion": rows.completion}


def continuation(messages: pa.ListArray) -> pa.StringArray:
    """Returns texts that continue a prompt: in the standard format they begin with the space that parts them from it,
    since trainers join the two as they are."""
    texts = content_of(messages)
    parted = pc.match_substring_regex(texts, r"^\s")
    return pc.if_else(parted, texts, pc.binary_join_element_wise(" ", texts, ""))
