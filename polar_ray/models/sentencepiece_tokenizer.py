"""A tokenizer over sentencepiece's ``tokenizer.model``."""

from collections.abc import Sequence
from pathlib import Path

import sentencepiece
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from polar_ray.errors import TokenizerError
from polar_ray.models.control_tokens import declared_tokens, is_control, read_tokenizer_config
from polar_ray.models.tokenizer import TextTokenizer

_CONTROL = ModelProto.SentencePiece.CONTROL
_USER_DEFINED = ModelProto.SentencePiece.USER_DEFINED
_UNKNOWN = ModelProto.SentencePiece.UNKNOWN


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

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        # One thread: encoding tasks run side by side already.
        ids: list[list[int]] = self._processor.encode(list(texts), num_threads=1)
        return ids

    def most_ids(self, text: str) -> int:
        # One more for the space that some models put before a text.
        return 1 + self._ids_per_byte * len(text.encode())

    def _decode_text(self, ids: list[int]) -> str:
        text: str = self._processor.decode(ids)
        return text
