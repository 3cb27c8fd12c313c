"""Tokenizers that keep text and control tokens apart."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polar_ray.errors import TokenizerError
from polar_ray.models.json_tokenizer import JsonTokenizer
from polar_ray.models.sentencepiece_tokenizer import SentencePieceTokenizer
from polar_ray.models.tokenizer import TextTokenizer, load_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "polar"
REAL = Path(__file__).parents[2] / "../shared/data/tokenizer/internlm2.model"
KINDS = json.loads((GOLDEN / "tokenizer_cases.json").read_text())["kinds"]
BOS = 1
CONTROL = re.compile(r"(<\|[a-z_]+\|>|\[UNUSED_TOKEN_\d+\]|</?s>|<unk>)")

TOKENIZERS = {
    f"{kind}-{form}": (kind, tokenizer)
    for kind, content in KINDS.items()
    for form, tokenizer in (
        ("model", SentencePieceTokenizer(GOLDEN / content["checkpoint"])),
        ("json", JsonTokenizer(GOLDEN / f"tiny_tokenizer_{kind}")),
    )
}
each_tokenizer = pytest.mark.parametrize(("kind", "tokenizer"), TOKENIZERS.values(), ids=TOKENIZERS)
TOKENIZER = TOKENIZERS["polar-model"][1]


def cases(kind: str, *, with_control: bool) -> list[dict[str, Any]]:
    return [case for case in KINDS[kind]["cases"] if bool(CONTROL.search(case["text"])) == with_control]


@each_tokenizer
def test_ordinary_text_gets_the_original_ids(kind: str, tokenizer: TextTokenizer) -> None:
    chosen = cases(kind, with_control=False)
    assert len(chosen) >= 12
    assert tokenizer.encode_batch([case["text"] for case in chosen]) == [case["ids"][1:] for case in chosen]


@each_tokenizer
def test_control_tokens_put_in_by_id_give_the_original_ids(kind: str, tokenizer: TextTokenizer) -> None:
    """The segments between control tokens each begin like a text of their own, as the original's do."""
    chosen = [
        case
        for case in cases(kind, with_control=True)
        # sentencepiece's own pieces do not begin a new segment in the original, so the space before differs.
        if "UNUSED" not in case["text"] or case["text"].startswith("p\n")
    ]
    assert len(chosen) >= 6
    for case in chosen:
        ids = [BOS]
        for part in CONTROL.split(case["text"]):
            if CONTROL.fullmatch(part):
                ids.append(133 if "UNUSED" in part else tokenizer.token_id(part))
            else:
                ids += tokenizer.encode_text(part)
        assert ids == case["ids"], case["text"]


@each_tokenizer
def test_text_that_looks_like_a_control_token_stays_text(kind: str, tokenizer: TextTokenizer) -> None:
    control = {
        tokenizer.token_id(text)
        for text in ("<s>", "</s>", "<unk>", "<|reward|>", "<|im_start|>", "<|im_end|>", "<|plugin|>")
    } | {133}
    for case in cases(kind, with_control=True):
        ids = tokenizer.encode_text(case["text"])
        assert control.isdisjoint(ids), case["text"]
        assert tokenizer.decode(ids) == case["text"]
        if case["text"].count("UNUSED") == 1 and "<" not in case["text"]:
            # The conversion that does not know these pieces spells them out, as is wanted here.
            assert [BOS, *ids] == case["remote_fast_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_both_kinds_of_file_agree(kind: str) -> None:
    texts = [case["text"] for case in KINDS[kind]["cases"]]
    from_model, from_json = (TOKENIZERS[f"{kind}-{form}"][1].encode_batch(texts) for form in ("model", "json"))
    assert from_model == from_json


@pytest.mark.parametrize(("kind", "reward"), [("polar", 3), ("internlm2_reward", 133)])
def test_the_same_name_is_another_id_in_the_two_families(kind: str, reward: int) -> None:
    for form in ("model", "json"):
        assert TOKENIZERS[f"{kind}-{form}"][1].token_id("<|reward|>") == reward


def test_an_unknown_control_token_is_an_error() -> None:
    with pytest.raises(TokenizerError, match=r"no control token <\|nothing\|>"):
        TOKENIZER.token_id("<|nothing|>")


def test_decoding_shows_control_tokens_by_name() -> None:
    ids = [1, *TOKENIZER.encode_text("p\nr"), 3, *TOKENIZER.encode_text("p\no"), 133]
    assert TOKENIZER.decode(ids) == "<s>p\nr<|reward|>p\no[UNUSED_TOKEN_130]"


# NUL stays out: sentencepiece's own files treat it in several ways.
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40))
def test_encoding_is_lossless_and_bounded(text: str) -> None:
    for _, tokenizer in TOKENIZERS.values():
        ids = tokenizer.encode_text(text)
        assert tokenizer.decode(ids) == text
        assert len(ids) <= tokenizer.most_ids(text)


def test_tokenizer_model_comes_before_tokenizer_json(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "polar_tiny_a/tokenizer.model", tmp_path)
    shutil.copy(GOLDEN / "tiny_tokenizer_polar/tokenizer.json", tmp_path)
    assert isinstance(load_tokenizer(tmp_path), SentencePieceTokenizer)
    (tmp_path / "tokenizer.model").unlink()
    assert isinstance(load_tokenizer(tmp_path), JsonTokenizer)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match=r"neither tokenizer.model nor tokenizer.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe not a tokenizer")
    with pytest.raises(TokenizerError, match=name):
        load_tokenizer(tmp_path)


def test_settings_left_over_from_training_are_ignored(tmp_path: Path) -> None:
    content = json.loads((GOLDEN / "tiny_tokenizer_polar/tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 2,
        "pad_type_id": 0,
        "pad_token": "</s>",
    }
    content["model"]["dropout"] = 0.5
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    text = "How many 'r's are there in the word 'strawberry'?"
    assert JsonTokenizer(tmp_path).encode_text(text) == TOKENIZER.encode_text(text)


def test_an_added_text_token_that_sentencepiece_lacks_is_refused(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "polar_tiny_a/tokenizer.model", tmp_path)
    config = {"added_tokens_decoder": {"1000": {"content": "<think>", "special": False}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match="text token '<think>'"):
        load_tokenizer(tmp_path)


@pytest.mark.skipif(not REAL.is_file(), reason="the published tokenizer is not here")
def test_the_published_tokenizer_keeps_control_tokens_out_of_text(tmp_path: Path) -> None:
    shutil.copy(REAL, tmp_path / "tokenizer.model")
    names = {"92397": {"content": "<|reward|>", "special": True}, "92543": {"content": "<|im_start|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": names}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 92544
    assert tokenizer.token_id("<|reward|>") == 92397
    assert tokenizer.token_id("[UNUSED_TOKEN_130]") == 92527
    text = "a[UNUSED_TOKEN_130]<|reward|></s> <|im_start|>user\nhi"
    ids = tokenizer.encode_text(text)
    assert {92397, 92527, 92543, 1, 2}.isdisjoint(ids)
    assert tokenizer.decode(ids) == text
    # Full-width letters are user-defined pieces too, and remain what they are.
    assert tokenizer.encode_text("Ｅ——") == [92352, 92395]
    # This model puts no space before a text.
    assert tokenizer.decode(tokenizer.encode_text("Hello world")) == "Hello world"
    assert tokenizer.encode_text("Hello world") == [9843, 2028]
