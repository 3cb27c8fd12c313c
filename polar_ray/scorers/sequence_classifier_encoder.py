"""Conversations for sequence classifiers as token ids. Loads no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from polar_ray.data.group import Message, table_to_groups
from polar_ray.data.status import Status
from polar_ray.errors import RecipeError, TokenizerError
from polar_ray.models.chat_template import Overrun
from polar_ray.models.chat_tokenizer import ChatTokenizer
from polar_ray.models.classifier_config import max_positions, read_classifier_config
from polar_ray.recipe.scorers import RewardModel, SequenceClassifier
from polar_ray.scorers.encoded import EncodedRows
from polar_ray.scorers.reward_encoder import RewardModelEncoder
from polar_ray.scorers.texts import without_thinking

_Conversation = tuple[Sequence[Message], Sequence[Message]]
"""A prompt and an answer."""


class SequenceClassifierEncoder(RewardModelEncoder):
    """Puts prompt and candidate through the model's chat template; one sequence per candidate.

    =====================================  ================================================================
    a candidate                            becomes
    =====================================  ================================================================
    that fits                              ``ok``
    that does not, ``on_too_long: skip``   ``too_long``
    that does not, ``cut_prompt``          ``truncated``: as few whole turns as needed are dropped from the
                                           start of the prompt. A turn begins with a user's message; system
                                           messages at the start and the last turn stay. ``too_long`` where
                                           that does not suffice: the candidate itself is never cut
    that the chat template refuses, or     ``error`` with the template's message
    leaves out
    =====================================  ================================================================
    """

    settings: ClassVar[type[RewardModel]] = SequenceClassifier

    def __init__(self, config: SequenceClassifier, folder: Path) -> None:
        model_limit = max_positions(read_classifier_config(folder, adapted=config.adapter is not None))
        if config.max_length is not None and config.max_length > model_limit:
            raise RecipeError(
                f"max_length is {config.max_length}, but {config.model} can be given {model_limit} tokens at most. "
                "Lower max_length or leave it out."
            )
        self.config = config
        self.max_length = config.max_length or model_limit
        self.tokenizer = ChatTokenizer(
            folder, chat_template=config.chat_template, chat_template_kwargs=config.chat_template_kwargs
        )

    def encode(self, groups: pa.Table) -> pa.Table:
        """Returns a table with ``ENCODED_SCHEMA`` for a table with ``GROUP_SCHEMA``, one row per candidate."""
        conversations = [
            [(group.prompt, self._answer(candidate.messages)) for candidate in group.candidates]
            for group in table_to_groups(groups)
        ]
        rows = EncodedRows()
        overrun = Overrun()
        for group, encoded in enumerate(self._encode_groups(conversations, overrun)):
            for place, whole in enumerate(encoded):
                ids: np.ndarray | TokenizerError | None = whole
                status = Status.OK
                if isinstance(whole, np.ndarray) and len(whole) > self.max_length:
                    status = Status.TRUNCATED
                    cut = self.config.on_too_long == "cut_prompt"
                    ids = self._cut(*conversations[group][place], overrun) if cut else None
                if ids is None:
                    rows.add_unscored(group, place, Status.TOO_LONG)
                elif isinstance(ids, TokenizerError):
                    rows.add_unscored(group, place, Status.ERROR, str(ids))
                else:
                    rows.add(group, place, [ids], status=status)
        return rows.table()

    def decode(self, ids: np.ndarray) -> str:
        """Returns ids as text, control tokens included."""
        return self.tokenizer.decode(ids)

    def _answer(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        if not self.config.strip_think:
            return tuple(messages)
        return tuple(Message(turn.role, without_thinking(turn.content)) for turn in messages)

    def _encode_groups(
        self, groups: Sequence[Sequence[_Conversation]], overrun: Overrun
    ) -> list[list[np.ndarray | TokenizerError]]:
        """Returns the ids of conversations that begin with the same prompt, by group, or why there are none."""
        rendered = self.tokenizer.render_groups(groups, overrun)
        texts = [[text for text in group if isinstance(text, str)] for group in rendered]
        ids = [iter(encoded) for encoded in self.tokenizer.encode_groups(texts)]
        return [
            [next(encoded) if isinstance(text, str) else text for text in group]
            for group, encoded in zip(rendered, ids, strict=True)
        ]

    def _cut(
        self, prompt: Sequence[Message], answer: Sequence[Message], overrun: Overrun
    ) -> np.ndarray | TokenizerError | None:
        """Returns the ids with the fewest turns dropped that fit, or None where the last turn alone does not."""
        start = 0
        while start < len(prompt) and prompt[start].role in ("system", "developer"):
            start += 1
        system = prompt[:start]
        turns = [place for place in range(start, len(prompt)) if prompt[place].role == "user"]
        shorter = [(*system, *prompt[place:]) for place in turns if place > start]
        # Fewer turns, fewer tokens: so the place of the first that fits is found by halving.
        fits: np.ndarray | None = None
        low, high = 0, len(shorter)
        while low < high:
            middle = (low + high) // 2
            [[ids]] = self._encode_groups([[(shorter[middle], answer)]], overrun)
            if isinstance(ids, TokenizerError):
                return ids
            if len(ids) <= self.max_length:
                fits, high = ids, middle
            else:
                low = middle + 1
        return fits
