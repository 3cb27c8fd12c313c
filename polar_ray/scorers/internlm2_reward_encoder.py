"""The encoder of internlm2-*-reward: a conversation in the InternLM2 chat format, and the reward token."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa

from polar_ray.data.group import Message, table_to_groups
from polar_ray.data.status import Status
from polar_ray.errors import TokenizerError
from polar_ray.models.chat_template import ChatTemplate
from polar_ray.models.control_tokens import read_tokenizer_config
from polar_ray.models.internlm2_tokens import REWARD_TOKEN, load_internlm2_tokens
from polar_ray.recipe.scorers import InternLM2Reward
from polar_ray.scorers.encoded import EncodedRows, Ids
from polar_ray.scorers.reward_encoder import RewardModelEncoder
from polar_ray.scorers.texts import without_thinking


class InternLM2RewardEncoder(RewardModelEncoder):
    r"""Builds ``<s>``, then ``<|im_start|>role\ncontent<|im_end|>\n`` for each message, then ``<|reward|>``.

    Control tokens are put in by id and never read from a text. References are not used. Nothing is cut, as in the
    original: a conversation longer than ``max_length`` has the status ``too_long``.

    Raises:
        CheckpointError: The folder does not hold an InternLM2 reward model.
        TokenizerError: A control token is missing, the end token is not ``<|reward|>``, or the checkpoint's chat
            template is another one.
    """

    settings = InternLM2Reward

    def __init__(self, config: InternLM2Reward, folder: Path) -> None:
        self.config = config
        self._tokens = load_internlm2_tokens(folder)
        if self._tokens.named_reward != self._tokens.end:
            raise TokenizerError(
                f"{folder}: reward_token_id is {self._tokens.end}, but {REWARD_TOKEN} is {self._tokens.named_reward}, "
                "as in POLAR, where it is a separator. Use kind: polar for this model."
            )
        _check_chat_format(folder)
        tokenizer = self._tokens.tokenizer
        self._start = np.array([tokenizer.token_id("<|im_start|>")], np.int32)
        self._stop = np.array([tokenizer.token_id("<|im_end|>"), *tokenizer.encode_text("\n")], np.int32)
        self._max_length = min(config.max_length or self._tokens.max_positions, self._tokens.max_positions)
        self._strip_think = config.strip_think

    def encode(self, groups: pa.Table) -> pa.Table:
        """Returns a table with ``ENCODED_SCHEMA`` for a table with ``GROUP_SCHEMA``.

        Each different message is encoded once, all of them in one batch; a prompt is put together once per group.
        """
        work = [
            (_texts(group.prompt), [self._answer(candidate.messages) for candidate in group.candidates])
            for group in table_to_groups(groups)
        ]
        texts = dict.fromkeys(text for prompt, answers in work for some in (prompt, *answers) for text in some)
        encoded = self._tokens.tokenizer.encode_batch(list(texts))
        ids = {text: np.array(row, np.int32) for text, row in zip(texts, encoded, strict=True)}
        rows = EncodedRows()
        for group, (prompt, answers) in enumerate(work):
            start = np.concatenate([np.array([self._tokens.bos], np.int32), *self._turns(prompt, ids)])
            for candidate, answer in enumerate(answers):
                parts: list[Ids] = [start, *self._turns(answer, ids), [self._tokens.end]]
                if sum(len(part) for part in parts) > self._max_length:
                    rows.add_unscored(group, candidate, Status.TOO_LONG)
                else:
                    rows.add(group, candidate, parts)
        return rows.table()

    def decode(self, ids: np.ndarray) -> str:
        """Returns ids as text for a person to read, control tokens included."""
        return self._tokens.tokenizer.decode(ids)

    def _answer(self, messages: Iterable[Message]) -> list[str]:
        if self._strip_think:
            messages = [Message(message.role, without_thinking(message.content)) for message in messages]
        return _texts(messages)

    def _turns(self, texts: list[str], ids: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [part for text in texts for part in (self._start, ids[text], self._stop)]


def _texts(messages: Iterable[Message]) -> list[str]:
    return [f"{message.role}\n{message.content}" for message in messages]


def _check_chat_format(folder: Path) -> None:
    """Refuses a checkpoint whose own chat template is not the format that is built here."""
    template = read_tokenizer_config(folder).get("chat_template")
    if template is None:
        return
    conversation = [Message("system", "a"), Message("user", "b"), Message("assistant", "c")]
    with closing(ChatTemplate(template, {"bos_token": "<s>", "eos_token": "</s>"})) as own:
        rendered = own.render(conversation)
    turns = [f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n" for message in conversation]
    if rendered != (expected := "<s>" + "".join(turns)):
        raise TokenizerError(
            f"{folder}: the chat template renders {rendered!r}, but internlm2-*-reward models read {expected!r}. Use "
            "the model's original tokenizer_config.json, or another kind of scorer."
        )
