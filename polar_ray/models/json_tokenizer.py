"""A tokenizer over ``tokenizer.json``, the format of the tokenizers library."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from polar_ray.errors import TokenizerError
from polar_ray.models.control_tokens import is_control
from polar_ray.models.damage import damage_of
from polar_ray.models.tokenizer import TextTokenizer


class JsonTokenizer(TextTokenizer):
    """Encodes text with the tokenizers library.

    Control tokens are taken out of the file's list of added tokens before it is loaded, so that there is nothing left
    that could be found in a text. Truncation, padding and dropout, which some files carry along from a training run,
    are taken out too.

    Raises:
        TokenizerError: The file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        with damage_of(path, TokenizerError):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                added = content["added_tokens"]
                control = {
                    token["content"]: token["id"]
                    for token in added
                    if is_control(token["content"], special=token["special"])
                }
                content["added_tokens"] = [token for token in added if token["content"] not in control]
                content |= {"truncation": None, "padding": None, "post_processor": None}
                content["model"] = {name: value for name, value in content["model"].items() if name != "dropout"}
                self._tokenizer = Tokenizer.from_str(json.dumps(content))
            except Exception as error:  # Tokenizer.from_str raises a bare Exception.
                raise TokenizerError(f"{path} is not a valid tokenizer ({error}). Download it again.") from error
            largest = max([*self._tokenizer.get_vocab().values(), *control.values()])
            super().__init__(path, largest + 1, control)
            self._ids_per_byte = 1 if _keeps_length(content["normalizer"], self._tokenizer) else 18
        self._path = path

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        with damage_of(self._path, TokenizerError):
            encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def most_ids(self, text: str) -> int:
        # One more for the space that some models put before a text.
        return 1 + self._ids_per_byte * len(text.encode())

    def _decode_text(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text


def _keeps_length(normalizer: dict[str, Any] | None, tokenizer: Tokenizer) -> bool:
    """Whether a text has at most as many ids as bytes: nothing in the normalizer makes several characters of one."""
    if normalizer is None:
        return True
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    # The mark for a space is three bytes long, but one piece.
    return tokenizer.token_to_id("▁") is not None and all(
        (step["type"] == "Prepend" and step["prepend"] == "▁")
        or (step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"] == "▁")
        for step in steps
    )
