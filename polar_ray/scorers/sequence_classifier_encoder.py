"""Conversations for sequence classifiers as token ids. Loads no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from polar_ray.data.group import Message, table_to_groups
from polar_ray.data.status import Status
from polar_ray.errors import RecipeError, TokenizerError
from polar_ray.models.chat_tokenizer import ChatTokenizer
from polar_ray.models.classifier_config import max_positions, read_classifier_config
from polar_ray.recipe.scorers import RewardModel, SequenceClassifier
from polar_ray.scorers.encoded import EncodedRows
from polar_ray.scorers.reward_encoder import RewardModelEncoder
from polar_ray.scorers.texts import without_thinking


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
            (group_row, place, group.prompt, self._answer(candidate.messages))
            for group_row, group in enumerate(table_to_groups(groups))
            for place, candidate in enumerate(group.candidates)
        ]
        encoded = self._encode_batch([(prompt, answer) for _, _, prompt, answer in conversations])
        rows = EncodedRows()
        for (group_row, place, prompt, answer), whole in zip(conversations, encoded, strict=True):
            ids: np.ndarray | TokenizerError | None = whole
            status = Status.OK
            if isinstance(whole, np.ndarray) and len(whole) > self.max_length:
                status = Status.TRUNCATED
                ids = self._cut(prompt, answer) if self.config.on_too_long == "cut_prompt" else None
            if ids is None:
                rows.add_unscored(group_row, place, Status.TOO_LONG)
            elif isinstance(ids, TokenizerError):
                rows.add_unscored(group_row, place, Status.ERROR, str(ids))
            else:
                rows.add(group_row, place, [ids], status=status)
        return rows.table()

    def decode(self, ids: np.ndarray) -> str:
        """Returns ids as text, control tokens included."""
        return self.tokenizer.decode(ids)

    def _answer(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        if not self.config.strip_think:
            return tuple(messages)
        return tuple(Message(turn.role, without_thinking(turn.content)) for turn in messages)

    def _encode_batch(
        self, conversations: Sequence[tuple[Sequence[Message], Sequence[Message]]]
    ) -> list[np.ndarray | TokenizerError]:
        """Returns the ids of conversations (prompt and answer), or why there are none."""
        rendered: list[str] = []
        refused: dict[int, TokenizerError] = {}
        for number, (prompt, answer) in enumerate(conversations):
            try:
                rendered.append(self.tokenizer.render(prompt, answer))
            except TokenizerError as error:
                refused[number] = error
        ids = iter(self.tokenizer.encode_batch(rendered))
        return [refused[number] if number in refused else next(ids) for number in range(len(conversations))]

    def _cut(self, prompt: Sequence[Message], answer: Sequence[Message]) -> np.ndarray | TokenizerError | None:
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
            ids = self._encode_batch([(shorter[middle], answer)])[0]
            if isinstance(ids, TokenizerError):
                return ids
            if len(ids) <= self.max_length:
                fits, high = ids, middle
            else:
                low = middle + 1
        return fits
