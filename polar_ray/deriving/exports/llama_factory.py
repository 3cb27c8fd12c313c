"""LLaMA-Factory's ShareGPT layout (ff6d4d12e) and its entry for ``dataset_info.json``.

``conversations`` holds ``{from: human | gpt, value}`` in turns; a system message has a column of its own. Its readers
drop a row whose turns do not alternate, or whose number is not odd (ranking) or even (SFT, KTO), with nothing but a
line in the log; and a ``kto_tag`` that is not a true boolean leaves the row without one. Such rows are not written.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.arrays import lengths_of, offsets
from polar_ray.deriving.exports.rows import Columns, PairRows, PickRows, joined, only_message
from polar_ray.recipe.exports import Task

FOLDER = "data/train"
"""Where the rows are, from the dataset's folder; a folder is a valid ``file_name`` there."""


def preference(rows: PairRows) -> Columns:
    """Columns of a ranking dataset."""
    return {
        **_conversations(rows.prompt, rows.prompt),
        "chosen": _turns(only_message(rows.chosen)),
        "rejected": _turns(only_message(rows.rejected)),
    }


def sft(rows: PickRows) -> Columns:
    """Columns of an SFT dataset."""
    return _conversations(rows.prompt, joined(rows.prompt, rows.completion))


def kto(rows: PickRows) -> Columns:
    """Columns of a KTO dataset."""
    return {**sft(rows), "kto_tag": rows.is_good}


def dataset_info(name: str, task: Task) -> dict[str, Any]:
    """Returns the entry for ``dataset_info.json``."""
    columns = {"messages": "conversations", "system": "system"}
    if task == "pairs":
        columns |= {"chosen": "chosen", "rejected": "rejected"}
    elif task == "labels":
        columns |= {"kto_tag": "kto_tag"}
    entry: dict[str, Any] = {"file_name": FOLDER, "formatting": "sharegpt", "columns": columns}
    if task == "pairs":
        entry["ranking"] = True
    return {name: entry}


def _conversations(prompt: pa.ListArray, whole: pa.ListArray) -> Columns:
    """The turns without the system message, and the system message (an empty text is none)."""
    first = pc.list_element(prompt, 0)
    has_system = pc.equal(first.field("role"), "system")
    system = pc.if_else(has_system, first.field("content"), "")
    skipped = np.asarray(has_system.to_numpy(zero_copy_only=False), np.int64)
    sizes = lengths_of(whole)
    position = np.arange(int(sizes.sum())) - np.repeat(offsets(sizes)[:-1], sizes)
    kept = pa.array(position >= np.repeat(skipped, sizes))
    turns = _turns(whole.flatten().filter(kept))
    lists = pa.ListArray.from_arrays(pa.array(offsets(sizes - skipped), pa.int32()), turns)
    return {"conversations": lists, "system": system}


def _turns(messages: pa.StructArray) -> pa.StructArray:
    sender = pc.if_else(pc.equal(messages.field("role"), "user"), "human", "gpt")
    return pa.StructArray.from_arrays([sender, messages.field("content")], names=["from", "value"])
