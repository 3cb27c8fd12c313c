"""LLaMA-Factory's ShareGPT layout (ff6d4d12e) and its entries for ``dataset_info.json``.

``conversations`` holds ``{from: system | human | gpt, value}``. Its readers drop a row whose turns after the system
message do not alternate, or whose number is not odd (ranking) or even (SFT, KTO), with nothing but a line in the log;
and a ``kto_tag`` that is not a true boolean leaves the row without one. Such rows are not written.
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.arrays import lengths_of, offsets
from polar_ray.deriving.exports.rows import Columns, PairRows, PickRows, joined, only_message
from polar_ray.recipe.exports import Task


def preference(rows: PairRows) -> Columns:
    """Columns of a ranking dataset."""
    return {
        "conversations": _conversations(rows.prompt),
        "chosen": _turns(only_message(rows.chosen)),
        "rejected": _turns(only_message(rows.rejected)),
    }


def sft(rows: PickRows) -> Columns:
    """Columns of an SFT dataset."""
    return {"conversations": _conversations(joined(rows.prompt, rows.completion))}


def kto(rows: PickRows) -> Columns:
    """Columns of a KTO dataset."""
    return {**sft(rows), "kto_tag": rows.is_good}


def dataset_info(name: str, task: Task, sides: list[str]) -> dict[str, Any]:
    """Returns the entries for ``dataset_info.json``: NAME, and NAME_validation for ``eval_dataset``.

    A folder is a valid ``file_name`` there; paths start at the dataset's own folder (``dataset_dir``).
    """
    columns = {"messages": "conversations"}
    entry: dict[str, Any] = {"formatting": "sharegpt", "columns": columns}
    if task == "pairs":
        columns |= {"chosen": "chosen", "rejected": "rejected"}
        entry["ranking"] = True
    elif task == "labels":
        columns |= {"kto_tag": "kto_tag"}
    return {name if side == "train" else f"{name}_{side}": {"file_name": f"data/{side}", **entry} for side in sides}


def _conversations(messages: pa.ListArray) -> pa.ListArray:
    turns = _turns(messages.flatten())
    return pa.ListArray.from_arrays(pa.array(offsets(lengths_of(messages)), pa.int32()), turns)


def _turns(messages: pa.StructArray) -> pa.StructArray:
    role = messages.field("role")
    sender = pc.if_else(pc.equal(role, "user"), "human", pc.if_else(pc.equal(role, "system"), "system", "gpt"))
    return pa.StructArray.from_arrays([sender, messages.field("content")], names=["from", "value"])
