"""axolotl: ``type: chat_template.default`` for preferences, ``type: chat_template`` for SFT.

Preferences are ``messages`` (the prompt) with one message each in ``chosen`` and ``rejected``. Roles other than system,
user, assistant and tool stop its reader, so prompts with others are not written.
"""

from polar_ray.deriving.exports.rows import Columns, PairRows, PickRows, joined, only_message


def preference(rows: PairRows) -> Columns:
    """Columns of a preference dataset."""
    return {"messages": rows.prompt, "chosen": only_message(rows.chosen), "rejected": only_message(rows.rejected)}


def sft(rows: PickRows) -> Columns:
    """Columns of an SFT dataset."""
    return {"messages": joined(rows.prompt, rows.completion)}
