"""The similarity of texts against a plain count of shared byte sequences."""

import time
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_ray.scorers.text_similarity import ReferenceText, normalised

TEXT = st.text(st.sampled_from("abAB 01\n\t你好世界éＡ１𝔸🙂\u0301"), max_size=40)


def plain_similarity(text: str, reference: str) -> float:
    def ngrams(side: str) -> Counter[bytes]:
        side = " ".join(unicodedata.normalize("NFKC", side).casefold().split())
        data = b" " * 5 + side.encode() + b" " * 5
        return Counter(data[at : at + 6] for at in range(len(data) - 5)) if side else Counter()

    found, wanted = ngrams(text), ngrams(reference)
    overlap = (found & wanted).total()
    if overlap == 0:
        return 0.0
    precision, recall = overlap / found.total(), overlap / wanted.total()
    return 3 * precision * recall / (2 * precision + recall)


@settings(deadline=None)
@given(TEXT, TEXT)
def test_similarity_is_the_f_measure_of_shared_byte_sequences(text: str, reference: str) -> None:
    assert ReferenceText(reference).similarity(text) == pytest.approx(plain_similarity(text, reference), abs=1e-12)


def test_a_worked_example() -> None:
    # Between five spaces on either side "ab" has 7 sequences of six bytes and "abab" has 9. They share four:
    # "     a", "    ab", "ab    " and "b     ".
    assert ReferenceText("ab").similarity("abab") == pytest.approx(3 * 4 / (2 * 7 + 9))


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("Hello  World\n", "hello world"),
        ("ＡＢＣ１２３", "abc123"),
        ("e\u0301", "é"),
        ("STRASSE", "straße"),
        ("。", "。"),
    ],
)
def test_texts_that_differ_in_form_only_are_the_same(text: str, reference: str) -> None:
    assert ReferenceText(reference).similarity(text) == 1.0


def test_nothing_is_close_to_an_empty_text() -> None:
    assert ReferenceText("").similarity("") == 0.0
    assert ReferenceText("").similarity("a") == 0.0
    assert ReferenceText("a").similarity(" \n") == 0.0


def test_closer_chinese_answers_are_more_similar() -> None:
    reference = ReferenceText("水在标准大气压下的沸点是一百摄氏度。")
    answers = [
        "在标准大气压下，水的沸点是一百摄氏度。",
        "水的沸点大约是九十摄氏度。",
        "今天的天气很好，适合出门散步。",
        "I do not know.",
    ]
    similarities = [reference.similarity(answer) for answer in answers]
    assert similarities == sorted(similarities, reverse=True)
    assert len(set(similarities[:3])) == 3


def test_a_lone_surrogate_is_text_like_any_other() -> None:
    assert ReferenceText("a\ud800").similarity("a\ud800") == 1.0


@pytest.mark.parametrize("text", ["word " * 40_000, "长" * 200_000, "\u0301\u0316" * 100_000])
def test_a_very_long_text_takes_about_a_second_at_most(text: str) -> None:
    started = time.process_time()
    ReferenceText("a reference of no great length").similarity(text)
    assert time.process_time() - started < 3


def test_normalisation_in_pieces_equals_normalisation_at_once() -> None:
    text = "Ünï ＡＢ 中文，" * 2_000
    assert normalised(text) == " ".join(unicodedata.normalize("NFKC", text).casefold().split())
