"""Tokenizers that keep text and control tokens apart.

A text is always encoded as text: ``<|reward|>`` or ``<|im_start|>`` in what a user or a model wrote is spelt out in
ordinary pieces. Control tokens are put into a sequence by their ids, which ``token_id`` gives.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from polar_ray.errors import TokenizerError
from polar_ray.models.damage import damage_of


class TextTokenizer(ABC):
    """Encodes text, and only text.

    Attributes:
        vocab_size: Ids are below it.
    """

    def __init__(self, origin: Path, vocab_size: int, control: Mapping[str, int]) -> None:
        self.vocab_size = vocab_size
        self._origin = origin
        self._control = dict(control)
        # Where two names share an id (<|reward|> sits in the slot of [UNUSED_TOKEN_0]), the last one is shown.
        self._names = {number: text for text, number in control.items()}

    def encode_text(self, text: str) -> list[int]:
        """Returns the ids of a text, without BOS or EOS. No part of it becomes a control token."""
        return self.encode_batch([text])[0]

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns ``encode_text`` of each text."""

    def encode_joined(self, texts: Sequence[tuple[str, str]]) -> list[tuple[np.ndarray, ...]]:
        """Returns the ids of each text, given as its start and its end: int32 arrays to be put one after the other.

        Each different text is encoded once; a tokenizer that can prove that no id changes encodes a start that many
        texts share once, too.
        """
        different = list(dict.fromkeys(start + end for start, end in texts))
        ids = dict(zip(different, map(_array, self.encode_batch(different)), strict=True))
        return [(ids[start + end],) for start, end in texts]

    @abstractmethod
    def most_ids(self, text: str) -> int:
        """Returns a number that ``len(encode_text(text))`` does not exceed, without encoding."""

    @abstractmethod
    def _decode_text(self, ids: list[int]) -> str:
        """Returns the text of ids among which there are no control tokens."""

    def token_id(self, text: str) -> int:
        """Returns the id of a control token.

        Raises:
            TokenizerError: The tokenizer has no such control token, or it lies outside the vocabulary.
        """
        number = self._control.get(text)
        if number is None:
            raise TokenizerError(
                f"{self._origin} has no control token {text}. Check that the whole tokenizer was downloaded "
                "(tokenizer_config.json names the tokens) and that this kind of scorer fits the model."
            )
        return number

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids, with control tokens by their names."""
        shown = ""
        segment: list[int] = []
        for number in map(int, ids):
            if number in self._names:
                shown += self._decode_text(segment) + self._names[number]
                segment = []
            else:
                segment.append(number)
        return shown + self._decode_text(segment)


def _array(ids: list[int]) -> np.ndarray:
    return np.array(ids, np.int32)


def load_tokenizer(folder: Path) -> TextTokenizer:
    """Returns the tokenizer of a model.

    ``tokenizer.model`` (sentencepiece) comes before ``tokenizer.json`` where a folder has both: the model was trained
    with the former, and conversions to the latter are known to lose pieces.

    Raises:
        TokenizerError: There is neither, or it cannot be read.
    """
    # Each of the two is imported when a model needs it.
    if (folder / "tokenizer.model").is_file():
        from polar_ray.models.sentencepiece_tokenizer import SentencePieceTokenizer

        with damage_of(folder / "tokenizer.model", TokenizerError):
            return SentencePieceTokenizer(folder)
    if (folder / "tokenizer.json").is_file():
        from polar_ray.models.json_tokenizer import JsonTokenizer

        return JsonTokenizer(folder)
    raise TokenizerError(f"{folder} has neither tokenizer.model nor tokenizer.json. Download the whole model.")
