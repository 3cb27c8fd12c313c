"""What texts begin with alike is tokenized once, and no id changes by it: against tokenizing each whole text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import Tokenizer

from polar_ray.data.group import Message
from polar_ray.models.chat_tokenizer import ChatTokenizer
from polar_ray.models.clear_cuts import clear_cuts
from polar_ray.models.sentencepiece_tokenizer import SentencePieceTokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = GOLDEN / "polar" / "polar_tiny_a"
CHATS = ["tok_llama3_bos_in_template", "tok_llama3_no_bos_in_template", "tok_qwen2"]
# What merges across words, lines and scripts, and what is unknown, in any order.
SNIPPETS = [
    " ",
    "  ",
    "\n",
    "\n\n",
    ";\n",
    "\t",
    "a",
    "the",
    "The ",
    "12",
    "ing",
    "été",
    "你好",
    "\U0001f600",
    "▁",
    "\0",
]
SNIPPETS += ["<|reward|>", "[UNUSED_TOKEN_130]", "<s>", "}\n\n", "\r\n", "\ufffd", ".", "'s", "x" * 30]
texts = st.lists(st.sampled_from(SNIPPETS), max_size=12).map("".join)


def plain_ids(folder: Path, text: str) -> list[int]:
    """The ids of a whole text by sentencepiece itself; declared words that look like control tokens spelt out."""
    proto = ModelProto()
    proto.ParseFromString((folder / "tokenizer.model").read_bytes())
    for piece in proto.pieces:
        if piece.type == piece.USER_DEFINED and piece.piece.startswith(("[", "<|")):
            piece.type = piece.CONTROL
    ids: list[int] = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString()).encode(text)
    return ids


def joined(tokenizer: SentencePieceTokenizer, pairs: list[tuple[str, str]]) -> list[list[int]]:
    return [np.concatenate(parts).tolist() for parts in tokenizer.encode_joined(pairs)]


@pytest.fixture(scope="module")
def tiny() -> SentencePieceTokenizer:
    return SentencePieceTokenizer(TINY)


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SentencePieceTokenizer, Path]:
    folder = tmp_path_factory.mktemp("real")
    (folder / "tokenizer.model").symlink_to(shared / "data" / "tokenizer" / "internlm2.model")
    return SentencePieceTokenizer(folder), folder


@given(start=texts, ends=st.lists(texts, min_size=1, max_size=3))
@example(start="", ends=["", "a"])
@example(start="a;\n", ends=["\n\nb"])
@settings(max_examples=300, deadline=None)
def test_a_shared_start_changes_no_id(tiny: SentencePieceTokenizer, start: str, ends: list[str]) -> None:
    pairs = [(start, end) for end in ends]
    assert joined(tiny, pairs) == [plain_ids(TINY, start + end) for end in ends]


def test_a_space_put_before_every_text_is_put_before_the_first_part_only(tmp_path: Path) -> None:
    proto = ModelProto()
    proto.ParseFromString((TINY / "tokenizer.model").read_bytes())
    proto.normalizer_spec.add_dummy_prefix = not proto.normalizer_spec.add_dummy_prefix
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    tokenizer = SentencePieceTokenizer(tmp_path)
    pairs = [("What is it?\n", "The first of them."), ("What is it?\n", ""), ("", "The first.")]
    assert joined(tokenizer, pairs) == [plain_ids(tmp_path, start + end) for start, end in pairs]


@given(start=texts, ends=st.lists(texts, min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_a_shared_start_changes_no_id_of_the_real_vocabulary(
    real: tuple[SentencePieceTokenizer, Path], start: str, ends: list[str]
) -> None:
    tokenizer, _ = real
    assert joined(tokenizer, [(start, end) for end in ends]) == tokenizer.encode_batch([start + end for end in ends])


@pytest.mark.parametrize("name", ["humaneval", "oa_multilingual", "arena_bench_v1"])
def test_a_shared_start_changes_no_id_of_real_generations(
    real: tuple[SentencePieceTokenizer, Path], shared: Path, name: str
) -> None:
    tokenizer, _ = real
    rows = pq.read_table(shared / "data" / "medium" / f"{name}.parquet", columns=["prompt", "outputs"])
    pairs = [
        ("\n".join(message["content"] for message in row["prompt"]) + joint, output["content"][0]["content"])
        for row in rows.slice(0, 20).to_pylist()
        for output in row["outputs"][:5]
        for joint in ("\n", "")
    ]
    assert joined(tokenizer, pairs) == tokenizer.encode_batch([start + end for start, end in pairs])
    # And most of the starts were cut: otherwise nothing is shared.
    assert np.mean([len(parts) == 2 for parts in tokenizer.encode_joined(pairs)]) > 0.9


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("trainer_spec", "model_type", ModelProto().trainer_spec.UNIGRAM),
        ("trainer_spec", "treat_whitespace_as_suffix", True),
        ("normalizer_spec", "remove_extra_whitespaces", True),
    ],
)
def test_texts_of_a_model_for_which_it_is_not_proven_are_not_cut(
    tmp_path: Path, part: str, name: str, value: Any
) -> None:
    proto = ModelProto()
    proto.ParseFromString((TINY / "tokenizer.model").read_bytes())
    setattr(getattr(proto, part), name, value)
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    [parts] = SentencePieceTokenizer(tmp_path).encode_joined([("What is it?\n", "The first.")])
    assert len(parts) == 1


def whole_ids(folder: Path, text: str) -> list[int]:
    """The ids of a rendered conversation by the tokenizers library itself, with the tokens that stand in it."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_str(json.dumps({**content, "post_processor": None, "truncation": None, "padding": None}))
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def candidates_of(tokenizer: ChatTokenizer, prompt: str, answers: list[str]) -> list[str]:
    return [tokenizer.render([Message("user", prompt)], [Message("assistant", answer)]) for answer in answers]


@pytest.mark.parametrize("name", CHATS)
def test_candidates_of_a_prompt_get_the_ids_of_their_whole_conversations(name: str) -> None:
    folder = GOLDEN / "heads" / name
    tokenizer = ChatTokenizer(folder)
    answers = ["Yes.", "Yes, it is.", "", "  spaces\n\n", "No", "Yes."]
    texts = candidates_of(tokenizer, "Is two more than one?\n", answers)
    [encoded] = tokenizer.encode_groups([texts])
    whole = [whole_ids(folder, text) for text in texts]
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    expected = [ids if ids[:1] == bos else [*bos, *ids] for ids in whole]
    assert [ids.tolist() for ids in encoded if isinstance(ids, np.ndarray)] == expected


@pytest.mark.parametrize("name", CHATS)
def test_the_prompt_is_cut_off_before_the_last_control_token_that_all_candidates_share(name: str) -> None:
    tokenizer = ChatTokenizer(GOLDEN / "heads" / name)
    texts = candidates_of(tokenizer, "Is two more than one?", ["Yes.", "No."])
    parts = tokenizer._parted(texts)
    assert [len(part) for part in parts] == [2, 2]
    assert parts[0][0] == parts[1][0]
    assert "Is two more than one?" in parts[0][0]


@pytest.fixture(scope="module", params=CHATS)
def chat(request: pytest.FixtureRequest) -> ChatTokenizer:
    return ChatTokenizer(GOLDEN / "heads" / request.param)


CHAT_SNIPPETS = [*SNIPPETS, "<|eot_id|>", "<|im_end|>", "<|im_start|>", "<|end_header_id|>", "<", "|>", "<|"]
chat_texts = st.lists(st.sampled_from(CHAT_SNIPPETS), min_size=1, max_size=8).map("".join)


@given(prompt=chat_texts, answers=st.lists(chat_texts, min_size=2, max_size=4))
@example(prompt=" ", answers=[" ", " ", "<|end_header_id|>"])
@settings(max_examples=150, deadline=None)
def test_no_candidate_gets_other_ids_beside_others(chat: ChatTokenizer, prompt: str, answers: list[str]) -> None:
    together = chat.encode_groups([candidates_of(chat, prompt, answers)])[0]
    alone = chat.encode_batch(candidates_of(chat, prompt, answers))
    assert [ids.tolist() if isinstance(ids, np.ndarray) else str(ids) for ids in together] == [
        ids.tolist() if isinstance(ids, np.ndarray) else str(ids) for ids in alone
    ]


def added(text: str, **changes: bool) -> dict[str, Any]:
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {"content": text, **plain, **changes}


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([added("<|a|>"), added("<|b|>")], ["<|a|>", "<|b|>"]),
        ([added("<|a|>", lstrip=True)], []),
        ([added("<|a|>", normalized=True)], []),
        ([added("<|a|>"), added("word", single_word=True)], []),
        # Ends with what the other begins with, holds it, or goes on where it ends.
        ([added("<|a|>"), added("x<|")], ["x<|"]),
        ([added("<|a|>"), added("x<|a|>y")], ["x<|a|>y"]),
        ([added("<|a|>"), added("<|a|>2")], ["<|a|>2"]),
        ([added("\n\n")], []),
        ([added("aXa")], []),
    ],
)
def test_a_text_is_cut_only_before_a_token_that_nothing_reaches_across(
    tokens: list[dict[str, Any]], expected: list[str]
) -> None:
    assert clear_cuts(tokens) == expected


def cuts_by_pairs(texts: list[str]) -> list[str]:
    """Returns the texts before which one may cut, by the definition: each text is held against each."""
    return [
        text
        for text in texts
        if text
        and not text[0].isspace()
        and not any(text.startswith(other[start:]) for other in texts for start in range(1, len(other)))
        and not any(text in other[1:] or (other.startswith(text) and other != text) for other in texts)
    ]


@given(st.lists(st.text(alphabet="ab<", max_size=6), max_size=8))
@example(["aa", "aab", "baab"])
@example(["abab", "ba", "b"])
@settings(max_examples=1000, deadline=None)
def test_cuts_are_those_that_comparing_each_pair_of_tokens_finds(texts: list[str]) -> None:
    assert clear_cuts([added(text) for text in texts]) == cuts_by_pairs(texts)


def test_a_tokenizer_may_have_thousands_of_added_tokens_and_long_ones() -> None:
    # Pair by pair the first takes minutes; ending by ending the second takes gigabytes.
    texts = [f"<unused{n}>" for n in range(50_000)]
    assert clear_cuts([added(text) for text in texts]) == texts
    long = ["a" * 100_000 + "b", "c" * 100_000]
    assert clear_cuts([added(text) for text in long]) == long[:1]
