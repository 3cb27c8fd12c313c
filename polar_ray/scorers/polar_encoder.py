"""POLAR's encoder: prompt, reference and candidate become one sequence of ids."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from polar_ray.data.status import Status
from polar_ray.errors import RecipeError, TokenizerError
from polar_ray.models.internlm2_tokens import REWARD_TOKEN, load_internlm2_tokens
from polar_ray.recipe.scorers import Polar
from polar_ray.scorers.encoded import EncodedRows
from polar_ray.scorers.polar_cut import PolarCut
from polar_ray.scorers.reward_encoder import RewardModelEncoder
from polar_ray.scorers.texts import joined_contents, without_thinking


@dataclass(frozen=True)
class _Pair:
    """A candidate beside a reference. Both halves of its sequence, ``left`` and ``right``, begin with ``start``."""

    group: int
    candidate: int
    reference: int
    start: str
    left: str
    right: str
    truncated: bool


class PolarEncoder(RewardModelEncoder):
    """Builds ``<s>`` prompt reference ``<|reward|>`` prompt candidate ``[UNUSED_TOKEN_130]``.

    Prompt and answer are joined by a newline (``wrapper: pretrain``: by nothing). Roles are ignored, as in the
    original: the contents of several messages are joined by newlines. Each half is encoded as one text, so that the
    second begins as the first does; control tokens are put in by id and never read from a text. A candidate of a
    group without a reference has the status ``no_reference``.

    Raises:
        CheckpointError: The folder does not hold an InternLM2 reward model.
        TokenizerError: The separator or the end token is missing, or they are the same.
        RecipeError: The limits leave no room for the prompt.
    """

    settings = Polar

    def __init__(self, config: Polar, folder: Path) -> None:
        self.config = config
        self._tokens = load_internlm2_tokens(folder)
        if self._tokens.named_reward == self._tokens.end:
            raise TokenizerError(
                f"{folder}: {REWARD_TOKEN} is the end token (id {self._tokens.end}), as in internlm2-*-reward; in "
                "POLAR it separates reference and candidate. Use kind: internlm2_reward for this model."
            )
        self._cut = PolarCut(config.max_length, config.max_response_length, config.response_cut_side)
        if self._cut.smallest_prompt_budget < 1:
            raise RecipeError(
                f"max_response_length {config.max_response_length}, twice, leaves no room for a prompt within "
                f"max_length {config.max_length}. Set max_response_length to at most {(config.max_length - 6) // 2}."
            )
        control = (self._tokens.bos, self._tokens.named_reward, self._tokens.end)
        self._bos, self._separator, self._end = (np.array([number], np.int32) for number in control)
        self._joint = "\n" if config.wrapper == "sft" else ""
        self._only_first = config.references == "first"
        self._change = without_thinking if config.strip_think else None

    def encode(self, groups: pa.Table) -> pa.Table:
        """Returns a table with ``ENCODED_SCHEMA`` for a table with ``GROUP_SCHEMA``.

        Each different half is encoded once, all of them in one batch, and what halves begin with once where the
        tokenizer can be cut there.
        """
        work = list(self._pairs(groups))
        pairs = [item for item in work if isinstance(item, _Pair)]
        halves = dict.fromkeys((pair.start, end) for pair in pairs for end in (pair.left, pair.right))
        ids = dict(zip(halves, self._tokens.tokenizer.encode_joined(list(halves)), strict=True))
        rows = EncodedRows()
        for item in work:
            if not isinstance(item, _Pair):
                rows.add_unscored(*item, Status.NO_REFERENCE)
                continue
            left, right = ids[item.start, item.left], ids[item.start, item.right]
            parts = (self._bos, *left, self._separator, *right, self._end)
            if sum(map(len, parts)) > self._tokens.max_positions:
                rows.add_unscored(item.group, item.candidate, Status.TOO_LONG, reference=item.reference)
                continue
            status = Status.TRUNCATED if item.truncated else Status.OK
            rows.add(item.group, item.candidate, parts, reference=item.reference, status=status)
        return rows.table()

    def decode(self, ids: np.ndarray) -> str:
        """Returns ids as text for a person to read, control tokens included."""
        return self._tokens.tokenizer.decode(ids)

    def _pairs(self, groups: pa.Table) -> Iterator[_Pair | tuple[int, int]]:
        """Yields what to encode, cut to fit, or (group, candidate) where there is no reference."""
        prompts = joined_contents(groups.column("prompt").combine_chunks())
        references = _nested_texts(groups.column("references").combine_chunks(), None, self._change)
        candidates = _nested_texts(groups.column("candidates").combine_chunks(), "messages", self._change)
        rows = list(zip(prompts, references, candidates, strict=True))
        if self._only_first:
            rows = [(prompt, several[:1], answers) for prompt, several, answers in rows]
        known = self._measure(rows)
        for group, (prompt, several, answers) in enumerate(rows):
            cut_references = [self._response(text, known) for text in several]
            for candidate, answer in enumerate(answers):
                if not several:
                    yield group, candidate
                    continue
                kept_answer, answer_cut = self._response(answer, known)
                for reference, (kept, reference_cut) in enumerate(cut_references):
                    kept_prompt, prompt_cut = self._prompt(prompt, several[reference], answer, known)
                    start = kept_prompt + self._joint
                    cut = answer_cut or reference_cut or prompt_cut
                    yield _Pair(group, candidate, reference, start, kept, kept_answer, cut)

    def _measure(self, rows: Iterable[tuple[str, list[str], list[str]]]) -> dict[str, list[int]]:
        """Encodes the texts that may have to be cut, or whose length decides how a prompt is cut."""
        # No text within this is ever cut. Bytes bound ids, so that most texts need not be encoded to know.
        short = min(self._cut.max_response_length, self._cut.smallest_prompt_budget)
        wanted: dict[str, None] = {}
        for prompt, references, candidates in rows:
            long_prompt = self._may_exceed(prompt, short)
            if long_prompt:
                wanted[prompt] = None
            for text in (*references, *candidates):
                if long_prompt or self._may_exceed(text, short):
                    wanted[text] = None
        encoded = self._tokens.tokenizer.encode_batch(list(wanted))
        return dict(zip(wanted, encoded, strict=True))

    def _may_exceed(self, text: str, limit: int) -> bool:
        return 1 + self._tokens.tokenizer.most_ids(text) > limit

    def _response(self, text: str, known: dict[str, list[int]]) -> tuple[str, bool]:
        """Returns what is kept of a reference or candidate, and whether anything was cut."""
        if text not in known:
            return text, False
        kept = self._cut.response(known[text])
        return self._text_of(text, kept, known[text])

    def _prompt(self, text: str, reference: str, candidate: str, known: dict[str, list[int]]) -> tuple[str, bool]:
        if text not in known or reference not in known or candidate not in known:
            return text, False
        kept = self._cut.prompt(known[text], known[reference], known[candidate])
        return self._text_of(text, kept, known[text])

    def _text_of(self, text: str, kept: Iterable[int], ids: list[int]) -> tuple[str, bool]:
        kept = list(kept)
        if len(kept) == len(ids):
            return text, False
        return self._tokens.tokenizer.decode(kept), True


def _nested_texts(lists: pa.Array, field: str | None, change: object) -> list[list[str]]:
    """Returns the texts of a list of message lists, or of a list of structs with a field of them, by row."""
    flat = lists.flatten()
    texts = iter(joined_contents(flat if field is None else pc.struct_field(flat, field), change))  # type: ignore[arg-type]
    return [[next(texts) for _ in range(length)] for length in pc.list_value_length(lists).to_pylist()]
