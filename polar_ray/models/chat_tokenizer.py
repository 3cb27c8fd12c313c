"""Conversations to token ids through a chat template, with control tokens only where the template puts them.

The rendered text is tokenized with the special tokens that stand in it, and nothing is added, except one BOS:

====================================  =========================================================
the ids of the rendered text          what happens
====================================  =========================================================
begin with BOS                        nothing: a second BOS would shift every position
do not, and the tokenizer puts BOS    exactly one BOS goes in front: such templates were written
before plain text                     to be tokenized as plain text (Skywork's Llama-3 models)
do not, and the tokenizer puts none   nothing (Qwen)
====================================  =========================================================

Whether the tokenizer puts BOS before plain text is said by ``add_bos_token`` in ``tokenizer_config.json`` and, where
that is absent, by the post-processor in ``tokenizer.json``. The end is as the template writes it: no EOS is added.

Control tokens
--------------
A message is text. Where its role or content contains the spelling of a control token (``<|eot_id|>``), the model
must see those characters, not the token: otherwise a candidate could close its own turn and open another. Such
spellings are masked before rendering; afterwards the template's own control tokens are renamed to names that no
text contains, the spellings are put back, and a copy of the tokenizer that knows the control tokens only by their
new names reads the whole text in one go. So spaces, prefixes and merges are as if the spelling were any other word.

Control tokens are the added tokens that are special, or named as BOS, EOS and so on, or spelled like control tokens
(``<|…|>``, ``<｜…｜>``, ``<start_of_turn>``, ``[INST]``). Other added tokens are words that a
model reads and writes like any other (``<think>`` of Qwen3, the runs of newlines of Gemma) and stay tokens.

A start that texts share
------------------------
The tokenizers library takes added tokens out of a text before it does anything else, and normalizes, splits and merges
what lies between them piece by piece. A text that is cut right before such a token therefore has the ids of its two
parts, if nothing reaches across the cut: no added token overlaps this one from the left or goes on where it ends, it
takes no spaces to its left (``lstrip``), and nothing asks what kind of character stands beside it (``single_word``).
Where the candidates' texts begin alike up to such a token, what comes before it is tokenized once.
"""

import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from polar_ray.data.group import Message
from polar_ray.errors import TokenizerError
from polar_ray.models.chat_template import ChatTemplate, Overrun, read_chat_template
from polar_ray.models.clear_cuts import clear_cuts
from polar_ray.models.control_tokens import is_control, read_tokenizer_config
from polar_ray.models.damage import damage_of

_SPECIAL_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)

_LONGEST_ERROR = 1_000
"""Characters of what a template says where it refuses a conversation."""


@dataclass(frozen=True)
class _Part:
    """A rendered text or a part of one: its ids, and the control tokens that are written in it and were read of it."""

    ids: np.ndarray
    written: int
    read: int


class ChatTokenizer:
    """The tokenizer of a chat model: its ``tokenizer.json`` together with its chat template.

    Args:
        folder: A model's folder with ``tokenizer.json`` and ``tokenizer_config.json``.
        chat_template: Replaces the tokenizer's own template: its text, or the path of a ``.jinja`` file.
        chat_template_kwargs: Variables for the template.

    Raises:
        TokenizerError: Files are missing, or the template cannot be used (see ``ChatTemplate``).
    """

    def __init__(
        self,
        folder: Path,
        *,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        with damage_of(folder / "tokenizer.json", TokenizerError):
            self._load(folder, chat_template, chat_template_kwargs)

    def _load(self, folder: Path, chat_template: str | None, chat_template_kwargs: Mapping[str, Any] | None) -> None:
        config = read_tokenizer_config(folder)
        content = _tokenizer_json(folder, config)
        self._folder = folder
        self._tokenizer = _build(content)
        named = _special_tokens(folder, config)
        self.template = ChatTemplate(read_chat_template(folder, config, chat_template), named, chat_template_kwargs)
        self._control: dict[str, int] = {
            token["content"]: token["id"]
            for token in content["added_tokens"]
            if is_control(token["content"], special=token["special"]) or token["content"] in named.values()
        }
        # None of these overlap, so the last one in a text is the last match.
        self._cut_pattern = _any_of([text for text in clear_cuts(content["added_tokens"]) if text in self._control])
        longest_first = sorted(self._control, key=len, reverse=True)
        self._control_pattern = _any_of(longest_first)
        self._is_control = np.zeros(1 + max(self._tokenizer.get_vocab().values()), bool)
        # Text that the vocabulary cannot spell becomes the unknown token, so its number says nothing.
        unknown = _unknown_token(content["model"])
        counted = [text for text in longest_first if text != unknown]
        self._counted_pattern = _any_of(counted)
        self._is_control[[self._control[text] for text in counted]] = True
        # Nobody can guess these names, so no text contains them. Ids do not depend on them.
        nonce = f"{secrets.randbelow(10**15):015d}"
        self._masks = {text: f"\U000f0000{nonce}{n:05d}\U000f0001" for n, text in enumerate(self._control)}
        self._names = {text: f"\U000f0002{nonce}{n:05d}\U000f0003" for n, text in enumerate(self._control)}
        self._spellings = {mask: text for text, mask in self._masks.items()}
        self._mask_pattern = re.compile(f"\U000f0000{nonce}\\d{{5}}\U000f0001")
        self.bos_id = self._bos_id(content, config, named.get("bos_token"))

    def render(self, prompt: Sequence[Message], answer: Sequence[Message]) -> str:
        """Returns a conversation as text for ``encode_batch``; control spellings in its messages are masked.

        Templates may trim text, rewrap reasoning, or drop the reasoning (up to ``</think>``) of a turn, as the
        model was trained. Whatever else of the answer is missing from the rendered text is an error, since the
        score would not be the answer's.

        Raises:
            TokenizerError: The template refuses the conversation, or leaves out text of the answer.
        """
        [[rendered]] = self.render_groups([[(prompt, answer)]])
        if isinstance(rendered, TokenizerError):
            raise rendered
        return rendered

    def render_groups(
        self, groups: Sequence[Sequence[tuple[Sequence[Message], Sequence[Message]]]], overrun: Overrun | None = None
    ) -> list[list[str | TokenizerError]]:
        """Returns what ``render`` returns or raises for each conversation, a prompt and an answer, by group.

        ``overrun`` is what others took of the template's time that are rendered together with these.
        """
        masked = [self._masked(group) for group in groups]
        conversations = [(*prompt, *answer) for group in masked for prompt, answer in group]
        texts = iter(self.template.render_all(conversations, overrun))
        return [[self._checked(next(texts), answer) for _, answer in group] for group in masked]

    def _masked(
        self, group: Sequence[tuple[Sequence[Message], Sequence[Message]]]
    ) -> list[tuple[list[Message], list[Message]]]:
        prompts: dict[int, list[Message]] = {}
        masked = []
        for prompt, answer in group:
            # Candidates have one prompt in common.
            if id(prompt) not in prompts:
                prompts[id(prompt)] = self._masked_turns(prompt)
            masked.append((prompts[id(prompt)], self._masked_turns(answer)))
        return masked

    def _masked_turns(self, turns: Sequence[Message]) -> list[Message]:
        return [Message(self._mask(turn.role), self._mask(turn.content)) for turn in turns]

    def _checked(self, rendered: str | TokenizerError, answer: Sequence[Message]) -> str | TokenizerError:
        if isinstance(rendered, TokenizerError):
            # Masks differ from run to run, and errors are part of the score table.
            return TokenizerError(_shortened(self._unmask(str(rendered))))
        for turn in answer:
            shown = turn.content.rpartition("</think>")[2].strip()
            if shown not in rendered and _without_spaces(shown) not in _without_spaces(rendered):
                return TokenizerError(
                    f"The chat template leaves out text of the candidate (role {self._unmask(turn.role)!r}). "
                    "Set chat_template in the recipe to one that prints such messages whole."
                )
        return rendered

    def encode_batch(self, rendered: Sequence[str]) -> list[np.ndarray | TokenizerError]:
        """Returns the ids (int32, one row per text) of what ``render`` returned.

        A text whose control tokens do not come out as the template wrote them gives a ``TokenizerError`` in its
        place, and so does a text without any token.
        """
        return [ids for [ids] in self.encode_groups([[text] for text in rendered])]

    def encode_groups(self, groups: Sequence[Sequence[str]]) -> list[list[np.ndarray | TokenizerError]]:
        """Returns what ``encode_batch`` returns for each group of texts, such as the candidates of one prompt.

        What a group's texts begin with is encoded once where the text can be cut, and so are equal texts.
        """
        parted = [self._parted(texts) for texts in groups]
        different = dict.fromkeys(part for texts in parted for parts in texts for part in parts)
        encoded = dict(zip(different, self._encode(list(different)), strict=True))
        return [[self._joined([encoded[part] for part in parts]) for parts in texts] for texts in parted]

    def decode(self, ids: np.ndarray) -> str:
        """Returns ids as text, control tokens included."""
        return str(self._tokenizer.decode(ids.tolist(), skip_special_tokens=False))

    def _parted(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        """Returns each text as the parts to encode. A text with masks is not cut: another tokenizer reads it."""
        whole = [self._mask_pattern.search(text) is not None for text in texts]
        cuttable = [text for text, is_whole in zip(texts, whole, strict=True) if not is_whole]
        common = os.path.commonprefix(cuttable) if len(cuttable) > 1 else ""  # noqa: RUF071 (no paths)
        cut = max((match.start() for match in self._cut_pattern.finditer(common)), default=-1)
        return [
            (text,) if is_whole or cut <= 0 else (text[:cut], text[cut:])
            for text, is_whole in zip(texts, whole, strict=True)
        ]

    def _encode(self, texts: Sequence[str]) -> list[_Part]:
        masked = [self._mask_pattern.search(text) is not None for text in texts]
        plain = [text for text, has_mask in zip(texts, masked, strict=True) if not has_mask]
        renamed = [self._rename(text) for text, has_mask in zip(texts, masked, strict=True) if has_mask]
        with damage_of(self._folder / "tokenizer.json", TokenizerError):
            from_plain = iter(self._tokenizer.encode_batch_fast(plain, add_special_tokens=False))
            from_renamed = iter(
                self._renamed_tokenizer.encode_batch_fast(renamed, add_special_tokens=False) if renamed else ()
            )
        parts = []
        for text, has_mask in zip(texts, masked, strict=True):
            ids = np.array(next(from_renamed if has_mask else from_plain).ids, dtype=np.int32)
            written = len(self._counted_pattern.findall(text))
            parts.append(_Part(ids, written, int(np.count_nonzero(self._is_control[ids]))))
        return parts

    def _joined(self, parts: Sequence[_Part]) -> np.ndarray | TokenizerError:
        ids = np.concatenate([part.ids for part in parts]) if len(parts) > 1 else parts[0].ids
        if not ids.size:
            return TokenizerError("The chat template renders this conversation to nothing.")
        written, read = sum(part.written for part in parts), sum(part.read for part in parts)
        if written != read:
            return TokenizerError(
                f"The chat template wrote {written} control tokens and the tokenizer read {read}: text of the "
                "conversation turned into control tokens, or the other way round."
            )
        if self.bos_id is not None and ids[0] != self.bos_id:
            return np.concatenate([np.array([self.bos_id], np.int32), ids])
        return ids

    def _mask(self, text: str) -> str:
        return self._control_pattern.sub(lambda match: self._masks[match[0]], text)

    def _unmask(self, text: str) -> str:
        return self._mask_pattern.sub(lambda match: self._spellings[match[0]], text)

    def _rename(self, rendered: str) -> str:
        return self._unmask(self._control_pattern.sub(lambda match: self._names[match[0]], rendered))

    @cached_property
    def _renamed_tokenizer(self) -> Tokenizer:
        """The same tokenizer, with the same ids, that knows its control tokens by the names in ``_names``."""
        # Read again rather than kept: few runs need it, and a large vocabulary takes 100 MB as Python objects.
        renamed = _tokenizer_json(self._folder, read_tokenizer_config(self._folder))
        for token in renamed["added_tokens"]:
            token["content"] = self._names.get(token["content"], token["content"])
        model = renamed["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {self._names.get(piece, piece): id_ for piece, id_ in model["vocab"].items()}
        else:
            model["vocab"] = [[self._names.get(piece, piece), score] for piece, score in model["vocab"]]
        if model.get("unk_token") is not None:
            model["unk_token"] = self._names.get(model["unk_token"], model["unk_token"])
        tokenizer = _build(renamed)
        for text, id_ in self._control.items():
            if tokenizer.token_to_id(self._names[text]) != id_:
                raise TokenizerError(
                    f"tokenizer.json gives the control token {text!r} an id that depends on its spelling. "
                    "Re-save the tokenizer with transformers."
                )
        return tokenizer

    def _bos_id(self, content: Mapping[str, Any], config: Mapping[str, Any], bos: str | None) -> int | None:
        """Returns the id that must come first, or None where the tokenizer puts none before plain text."""
        if bos is None:
            return None
        id_ = self._tokenizer.token_to_id(bos)
        if id_ is None:
            raise TokenizerError(
                f"tokenizer_config.json names {bos!r} as bos_token, which tokenizer.json does not know. "
                "Re-save the tokenizer with transformers."
            )
        adds = config.get("add_bos_token")
        if adds is None:
            adds = _from_json(content).encode("a").ids[:1] == [id_]
        return int(id_) if adds else None


def chat_template_hash(folder: Path, chat_template: str | None) -> str:
    """Returns the SHA-256 (hex) of the source of the template that ``ChatTokenizer`` would use."""
    with damage_of(folder, TokenizerError):
        text = read_chat_template(folder, read_tokenizer_config(folder), chat_template)
    return sha256(text.encode()).hexdigest()


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    """Returns a pattern that finds each of the texts, or nothing where there are none."""
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")


def _build(tokenizer_json: Mapping[str, Any]) -> Tokenizer:
    """Returns a tokenizer that adds nothing, pads nothing and cuts nothing.

    Some ``tokenizer.json`` carry truncation, padding and dropout along from a training run.
    """
    without = {"truncation": None, "padding": None, "post_processor": None}
    model = {name: value for name, value in tokenizer_json["model"].items() if name != "dropout"}
    return _from_json({**tokenizer_json, **without, "model": model})


def _from_json(tokenizer_json: Mapping[str, Any]) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(tokenizer_json))
    except Exception as error:  # Tokenizer.from_str raises a bare Exception.
        raise TokenizerError(f"tokenizer.json is not a valid tokenizer ({error}). Download it again.") from error


def _tokenizer_json(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``tokenizer.json`` with the added tokens that only ``tokenizer_config.json`` lists."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise TokenizerError(
            f"There is no tokenizer.json in {folder}. Make one from the files that are there: load the tokenizer "
            "with transformers' AutoTokenizer.from_pretrained and call save_pretrained."
        )
    content = _read_json(file)
    known = {token["id"] for token in content["added_tokens"]}
    for id_, token in config.get("added_tokens_decoder", {}).items():
        if int(id_) not in known:
            content["added_tokens"].append({"id": int(id_), **token})
    content["added_tokens"].sort(key=lambda token: token["id"])
    return content


def _unknown_token(model: Mapping[str, Any]) -> str | None:
    """Returns the token that stands for what a model's vocabulary cannot spell."""
    if model.get("unk_id") is not None:
        return str(model["vocab"][model["unk_id"]][0])
    return model.get("unk_token")


def _special_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Returns the special tokens by name, which a template may read as variables."""
    # Older checkpoints keep them in a file of their own.
    named = {**_read_json(folder / "special_tokens_map.json"), **config}
    tokens = {name: named[name] for name in _SPECIAL_NAMES if named.get(name) is not None}
    return {name: token if isinstance(token, str) else token["content"] for name, token in tokens.items()}


def _read_json(file: Path) -> dict[str, Any]:
    """Returns the JSON object in a file, or an empty one where there is no file."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{file} is not valid JSON: {error}. Download it again.") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{file} is not a JSON object. Download it again.")
    return content


def _shortened(message: str) -> str:
    return message if len(message) <= _LONGEST_ERROR else f"{message[:_LONGEST_ERROR]} …"


def _without_spaces(text: str) -> str:
    return "".join(text.split())
