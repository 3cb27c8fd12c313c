"""A tokenizer over sentencepiece's ``tokenizer.model``.

Cutting a text
--------------
A start that many texts share need be encoded only once if the rest can be encoded apart. A BPE model merges two
neighbours only into a piece of its vocabulary, and looks for declared words only there. So between two characters that
stand next to each other in no piece, nothing is ever merged, and what is merged on one side does not depend on the
other: the ids of the whole text are those of its two parts. That holds where the model's normalizer treats each
character by itself, unknown characters become bytes, and the space that some models put before a text is put before
the first part only.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from polar_ray.errors import TokenizerError
from polar_ray.models.control_tokens import declared_tokens, is_control, read_tokenizer_config
from polar_ray.models.tokenizer import TextTokenizer

_CONTROL = ModelProto.SentencePiece.CONTROL
_USER_DEFINED = ModelProto.SentencePiece.USER_DEFINED
_UNKNOWN = ModelProto.SentencePiece.UNKNOWN
_BETWEEN = "\uffff"
"""Stands between two pieces where they are searched; no character, so no piece has it."""
_NOTHING = np.empty(0, np.int32)


class SentencePieceTokenizer(TextTokenizer):
    """Encodes text with sentencepiece.

    sentencepiece never finds pieces of the type CONTROL in a text, but it does find USER_DEFINED ones; InternLM2
    declares ``[UNUSED_TOKEN_130]`` so. Those that look like control tokens are given the type CONTROL. The names that
    ``tokenizer_config.json`` gives to slots (``<|reward|>``) are unknown to sentencepiece and so are text to it.

    Raises:
        TokenizerError: The file is damaged, or the tokenizer has added tokens that sentencepiece cannot find.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.model"
        proto = ModelProto()
        try:
            proto.ParseFromString(path.read_bytes())
        except DecodeError as error:
            raise TokenizerError(f"{path} is not a sentencepiece model ({error}). Download it again.") from error
        control = {}
        for number, piece in enumerate(proto.pieces):
            if piece.type == _USER_DEFINED and is_control(piece.piece, special=False):
                piece.type = _CONTROL
            if piece.type in (_CONTROL, _UNKNOWN):
                control[piece.piece] = number
        for text, (number, special) in declared_tokens(read_tokenizer_config(folder)).items():
            if is_control(text, special=special):
                control[text] = number
            elif number >= len(proto.pieces) or proto.pieces[number].piece != text:
                raise TokenizerError(
                    f"{folder}: tokenizer_config.json adds the text token {text!r}, which {path.name} does not have. "
                    "Remove tokenizer.model where there is a tokenizer.json beside it."
                )
        super().__init__(path, len(proto.pieces), control)
        # A piece covers at least one byte, unless a normalizer makes several characters of one (NFKC makes up to 18).
        self._ids_per_byte = 18 if proto.normalizer_spec.precompiled_charsmap else 1
        sentencepiece.set_min_log_level(2)
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        self._pieces = _BETWEEN.join(piece.piece for piece in proto.pieces) if _can_be_cut(proto) else None
        self._in_a_piece: dict[str, bool] = {}
        self._after_a_cut = self._processor
        if proto.normalizer_spec.add_dummy_prefix:
            proto.normalizer_spec.add_dummy_prefix = False
            self._after_a_cut = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return _encoded(self._processor, texts)

    def encode_joined(self, texts: Sequence[tuple[str, str]]) -> list[tuple[np.ndarray, ...]]:
        cuts = {start: self._last_cut(start) for start in dict.fromkeys(start for start, _ in texts)}
        heads: dict[str, np.ndarray] = {}
        tails: dict[str, np.ndarray] = {}
        for start, end in texts:
            cut = cuts[start]
            # What comes after no cut is a whole text, which gets the space that some models put before it.
            heads[start[:cut] if cut else start + end] = _NOTHING
            if cut:
                tails[start[cut:] + end] = _NOTHING
        for ids, processor in ((heads, self._processor), (tails, self._after_a_cut)):
            for text, encoded in zip(list(ids), _encoded(processor, list(ids)), strict=True):
                ids[text] = np.array(encoded, np.int32)
        return [
            (heads[start[:cut]], tails[start[cut:] + end]) if (cut := cuts[start]) else (heads[start + end],)
            for start, end in texts
        ]

    def most_ids(self, text: str) -> int:
        # One more for the space that some models put before a text.
        return 1 + self._ids_per_byte * len(text.encode())

    def _last_cut(self, text: str) -> int:
        """Returns the last place inside a text at which it can be cut, or 0."""
        if self._pieces is None:
            return 0
        for place in range(len(text) - 1, 0, -1):
            pair = text[place - 1 : place + 1].replace(" ", "▁")
            if pair not in self._in_a_piece:
                self._in_a_piece[pair] = pair in self._pieces
            if not self._in_a_piece[pair]:
                return place
        return 0

    def _decode_text(self, ids: list[int]) -> str:
        text: str = self._processor.decode(ids)
        return text


def _encoded(processor: sentencepiece.SentencePieceProcessor, texts: Sequence[str]) -> list[list[int]]:
    # One thread: encoding tasks run side by side already.
    ids: list[list[int]] = processor.encode(list(texts), num_threads=1)
    return ids


def _can_be_cut(proto: ModelProto) -> bool:
    """Whether texts of the model can be cut where the module says; a model of another kind is never cut."""
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    by_character = not normalizer.precompiled_charsmap and not normalizer.remove_extra_whitespaces
    as_usual = normalizer.escape_whitespaces and not trainer.treat_whitespace_as_suffix
    bpe = trainer.model_type == trainer.BPE
    return bool(bpe and trainer.byte_fallback and by_character and as_usual)
