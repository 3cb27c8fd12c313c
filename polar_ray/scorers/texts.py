"""The texts of a table of groups, taken out of Arrow without a Python object per message."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

Change = Callable[[str], str]


def without_thinking(text: str) -> str:
    """Returns what follows ``</think>``, stripped; a text without it is returned as it is.

    An answer whose thinking never ends is kept whole, as in POLAR's own training hook.
    """
    _, end, answer = text.partition("</think>")
    return answer.strip() if end else text


def joined_contents(messages: pa.Array, change: Change | None = None) -> list[str]:
    """Returns the contents of each row of a list-of-messages array, joined by newlines.

    Args:
        messages: ``list<struct<role, content>>`` without nulls.
        change: Applied to each content before joining.
    """
    contents = pc.struct_field(messages.flatten(), "content")
    if change is not None:
        contents = pa.array([change(content) for content in contents.to_pylist()], pa.string())
    lengths = pc.list_value_length(messages).to_numpy(zero_copy_only=False)
    offsets = pa.array([0, *lengths.cumsum().tolist()], pa.int32())
    texts: list[str] = pc.binary_join(pa.ListArray.from_arrays(offsets, contents), "\n").to_pylist()
    return texts
