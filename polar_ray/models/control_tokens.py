"""Control tokens: the ids that steer a model, and the texts that must never become one of them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polar_ray.errors import TokenizerError

LOOKS_LIKE_CONTROL = re.compile(
    r"<\|.*\|>|<｜.*｜>|</?s>|<(unk|pad|bos|eos|mask)>|<(start|end)_of_\w+>"
    r"|\[/?[A-Z_]+(_\d+)?\]|<unused_?\d+>"
)
"""Texts of control tokens that checkpoints do not always declare as special, such as ``[UNUSED_TOKEN_130]``.

Tokens of other forms that are not declared as special (``<think>``, ``<h1>``, runs of spaces) are ordinary text to
the models that have them, and stay the single ids that they are.
"""


def is_control(text: str, *, special: bool) -> bool:
    """Returns whether a token steers the model, so that text which happens to equal it must be spelt out."""
    return special or LOOKS_LIKE_CONTROL.fullmatch(text) is not None


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """Returns ``tokenizer_config.json`` as a dict, empty where there is none.

    Raises:
        TokenizerError: The file is no JSON object.
    """
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not valid JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path} is not a JSON object. Download it again.")
    return content


def declared_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, tuple[int, bool]]:
    """Returns the id of each token in ``added_tokens_decoder``, and whether it is declared as special."""
    entries = tokenizer_config.get("added_tokens_decoder", {})
    return {entry["content"]: (int(number), bool(entry.get("special"))) for number, entry in entries.items()}
