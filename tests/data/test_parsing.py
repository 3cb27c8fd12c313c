"""What becomes of odd and broken rows, one small hand-written case for each kind."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from polar_ray.recipe.input import Columns

Parse = Callable[..., Any]

ROW = {
    "prompt_id": "p",
    "prompt": [{"role": "user", "content": "2 + 2?"}],
    "reference": [{"role": "assistant", "content": "4"}],
    "candidates": [
        {"candidate_id": "a", "model": "m", "messages": [{"role": "assistant", "content": "four"}]},
        {"candidate_id": "b", "model": "m", "messages": "five"},
    ],
}


def row(**changes: Any) -> dict[str, Any]:
    return {**ROW, **changes}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in ROW.items() if name != key}


def candidate(**changes: Any) -> dict[str, Any]:
    return row(candidates=[ROW["candidates"][0], {**ROW["candidates"][1], **changes}])


def saying(text: str) -> dict[str, Any]:
    return candidate(messages=text)


def line(value: Any = ROW) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


CANDIDATE_WITHOUT = {
    key: row(candidates=[{name: value for name, value in ROW["candidates"][0].items() if name != key}])
    for key in ("candidate_id", "model", "messages")
}

GROUPS = {
    "clean": ROW,
    "content is text for one candidate and a list for another": ROW,
    "extra fields": row(source="x", meta={"a": [1, None]}, candidates=[{**ROW["candidates"][0], "seed": 7}]),
    "all candidates identical": row(candidates=[{"candidate_id": i, "messages": "x"} for i in "abc"]),
    "astral and private use": saying("𠀀 𝔘 \ue000 \U0010fffe"),
    "candidate equals prompt": saying("2 + 2?"),
    "candidate equals reference": saying("4"),
    "500 candidates": row(candidates=[{"candidate_id": str(i), "messages": f"x{i}"} for i in range(500)]),
    "empty candidate": saying(""),
    "trajectory": candidate(
        messages=[
            {"role": "assistant", "content": "Let me see."},
            {"role": "tool", "content": '{"result": 4}'},
            {"role": "assistant", "content": "4"},
        ]
    ),
    "white space only": saying(" \n\t "),
    "control characters": saying("\x1b[31m\x07\x7f"),
    "CRLF line end": line() + b"\r",
    "emoji": saying("👨‍👩‍👧‍👦 🇩🇪 👍🏽 1️⃣"),
    "markup, formulas, templates": saying("<script>alert(1)</script> =HYPERLINK(1) {{ x }} ${y}"),
    "200,000 characters": saying("word " * 40_000),
    "200,000 characters without a space": saying("a" * 200_000),
    "prompt of 120,000 characters": row(prompt="long " * 24_000),
    "reference of 100,000 characters": row(reference="long " * 20_000),
    "identical texts under two ids": row(candidates=[{"candidate_id": i, "messages": "same"} for i in "ab"]),
    "labels missing": ROW,
    "labels": row(labels=[{"candidate_id": "a", "kind": "exact", "correct": True, "preference": None, "score": 0.5}]),
    "labels that contradict each other": row(labels=[{"candidate_id": "a", "correct": c} for c in (True, False)]),
    "labels of an unknown candidate": row(labels=[{"candidate_id": "zzz", "score": 1}]),
    "labels null": row(labels=None),
    "2000 newlines": saying("\n\t" * 2000),
    "escaped NUL": saying("a\x00b"),
    "candidate without a model": CANDIDATE_WITHOUT["model"],
    "candidate with a null model": candidate(model=None),
    "prompt_id of 5000 characters": row(prompt_id="x" * 5000),
    "hostile prompt_id": row(prompt_id="../../etc/passwd\n%00;rm -rf '$HOME'"),
    "system message first": row(prompt=[{"role": "system", "content": "Be brief."}, ROW["prompt"][0]]),
    "reference null": row(reference=None),
    "degenerate repetition": saying("ha" * 25_000),
    "right to left": saying("\u202eשלום عليكم\u202c"),
    "one candidate": row(candidates=ROW["candidates"][:1]),
    "template tokens in a candidate": saying("<|reward|>[UNUSED_TOKEN_130]<|im_start|>"),
    "template tokens in the prompt": row(prompt="<|reward|> <s>"),
    "template tokens in the reference": row(reference="<|reward|></s>"),
    "line separators that are no line ends": line(saying("a\u2028b\u2029c\x85d")),
    "zalgo": saying("e" + "\u0301" * 300),
    "zero width characters": saying("a\u200bb\ufeffc\u00add"),
    "content as text parts": candidate(
        messages=[{"role": "assistant", "content": [{"type": "text", "text": "fi"}, {"type": "text", "text": "ve"}]}]
    ),
    "integer of 5000 digits": line()[:-1] + b', "big": ' + b"9" * 5000 + b"}",
    "no prompt_id": without("prompt_id"),
    "no reference": without("reference"),
    "decomposed Unicode": row(prompt="Cafe\u0301"),
    "message without a role": candidate(messages=[{"content": "five"}]),
    "candidate without an id": CANDIDATE_WITHOUT["candidate_id"],
    "candidate with a null id": candidate(candidate_id=None),
    "candidates as texts": row(candidates=["four", "five", "five"]),
    "empty prompt text": row(prompt=""),
    "integer prompt_id": row(prompt_id=17),
    "integer candidate id": candidate(candidate_id=17),
    "prompt ends with the assistant": row(prompt=[ROW["prompt"][0], {"role": "assistant", "content": "Hm."}]),
    "two user messages in a row": row(prompt=[ROW["prompt"][0], ROW["prompt"][0]]),
    "system message only": row(prompt=[{"role": "system", "content": "Be brief."}]),
    "prompt as text": row(prompt="2 + 2?"),
    "unknown role": row(prompt=[{"role": "wizard", "content": "2 + 2?"}]),
    "empty reference text": row(reference=""),
    "empty reference list": row(reference=[]),
    "reference as text": row(reference="4"),
    "several references": {**without("reference"), "references": ["4", [{"role": "assistant", "content": "four"}]]},
    "white space around the prompt": row(prompt="  2 + 2?\n"),
    "surrogate pair escaped": b'{"prompt": "\\ud83d\\ude00", "candidates": ["\\uD83D\\uDE00"]}',
    "escaped backslash before u": b'{"prompt": "\\\\ud83d", "candidates": ["x"]}',
}

LETTERS = {
    "content is a list of texts": (candidate(messages=["five"]), "schema", "messages_type"),
    "content of a message is null": (
        candidate(messages=[{"role": "assistant", "content": None}]),
        "schema",
        "content_null",
    ),
    "content is null": (candidate(messages=None), "schema", "messages_null"),
    "content is a number": (candidate(messages=42), "schema", "messages_type"),
    "content is an empty list": (candidate(messages=[]), "schema", "messages_empty"),
    "content has a part without a type": (
        candidate(messages=[{"role": "assistant", "content": [{"text": "x"}]}]),
        "schema",
        "content_type",
    ),
    "content has a text part without a text": (
        candidate(messages=[{"role": "assistant", "content": [{"type": "text"}]}]),
        "schema",
        "content_type",
    ),
    "content is null beside no call": (
        candidate(messages=[{"role": "assistant", "content": None, "tool_calls": []}]),
        "schema",
        "content_null",
    ),
    "line is a list": ([ROW], "schema", "not_an_object"),
    "line is a number": (7, "schema", "not_an_object"),
    "line is null": (None, "schema", "not_an_object"),
    "line is an empty object": ({}, "schema", "prompt_missing"),
    "labels are an object": (row(labels={"a": 1}), "schema", "labels_type"),
    "labels are numbers": (row(labels=[0.5, 1.0]), "schema", "labels_type"),
    "correct is a text": (row(labels=[{"candidate_id": "a", "correct": "yes"}]), "schema", "labels_type"),
    "no candidates": (without("candidates"), "schema", "candidates_missing"),
    "no prompt": (without("prompt"), "schema", "prompt_missing"),
    "candidate without messages": (CANDIDATE_WITHOUT["messages"], "schema", "messages_missing"),
    "candidate is null": (row(candidates=[ROW["candidates"][0], None]), "schema", "candidate_null"),
    "candidate is a number": (row(candidates=[3]), "schema", "candidate_type"),
    "candidates are an object": (row(candidates={"a": "four"}), "schema", "candidates_type"),
    "candidates are empty": (row(candidates=[]), "schema", "candidates_empty"),
    "candidates are null": (row(candidates=None), "schema", "candidates_null"),
    "prompt is empty": (row(prompt=[]), "schema", "prompt_empty"),
    "prompt is null": (row(prompt=None), "schema", "prompt_null"),
    "prompt is a number": (row(prompt=1.5), "schema", "prompt_type"),
    "prompt message is a text": (row(prompt=["2 + 2?"]), "schema", "prompt_type"),
    "prompt message without content": (row(prompt=[{"role": "user"}]), "schema", "content_missing"),
    "role is a number": (row(prompt=[{"role": 1, "content": "x"}]), "schema", "role_type"),
    "second message without a role": (row(prompt=[ROW["prompt"][0], {"content": "x"}]), "schema", "role_missing"),
    "prompt_id is blank": (row(prompt_id=" "), "schema", "prompt_id_empty"),
    "prompt_id is empty": (row(prompt_id=""), "schema", "prompt_id_empty"),
    "prompt_id is a float": (row(prompt_id=1.0), "schema", "prompt_id_type"),
    "prompt_id is a bool": (row(prompt_id=True), "schema", "prompt_id_type"),
    "prompt_id is null": (row(prompt_id=None), "schema", "prompt_id_null"),
    "candidate id is blank": (candidate(candidate_id=""), "schema", "candidate_id_empty"),
    "candidate id is a list": (candidate(candidate_id=[]), "schema", "candidate_id_type"),
    "model is a number": (candidate(model=7), "schema", "model_type"),
    "content of the reference is null": (
        row(reference=[{"role": "assistant", "content": None}]),
        "schema",
        "content_null",
    ),
    "reference is an object": (row(reference={"role": "assistant", "content": "4"}), "schema", "reference_type"),
    "references are a text": (row(reference=None, references="4"), "schema", "references_type"),
    "one of the references is null": (row(reference=None, references=["4", None]), "schema", "reference_null"),
    "one of the references is empty": (row(reference=None, references=["4", []]), "schema", "reference_empty"),
    "both kinds of reference": (row(references=["4"]), "schema", "reference_ambiguous"),
    "two candidates share an id": (candidate(candidate_id="a"), "duplicate", "duplicate_candidate_id"),
    "integer and text give the same id": (
        row(candidates=[{"candidate_id": i, "messages": "x"} for i in (1, "1")]),
        "duplicate",
        "duplicate_candidate_id",
    ),
    "byte order mark in the middle": (b"\xef\xbb\xbf" + line(), "parse", "byte_order_mark"),
    "key twice": (line()[:-1] + b', "prompt_id": "q"}', "parse", "duplicate_key"),
    "key twice in a candidate": (
        b'{"prompt": "x", "candidates": [{"messages": "a", "messages": "b"}]}',
        "parse",
        "duplicate_key",
    ),
    "key twice, once escaped": (b'{"prompt": "x", "\\u0070rompt": "y", "candidates": ["a"]}', "parse", "duplicate_key"),
    "NaN": (b'{"prompt": "x", "candidates": ["a"], "score": NaN}', "parse", "nan_literal"),
    "Infinity": (b'{"prompt": "x", "candidates": ["a"], "score": -Infinity}', "parse", "nan_literal"),
    "lone surrogate": (b'{"prompt": "x \\ud800 y", "candidates": ["a"]}', "parse", "lone_surrogate"),
    "low surrogate first": (b'{"prompt": "\\udc00\\ud800", "candidates": ["a"]}', "parse", "lone_surrogate"),
    "GBK": (json.dumps(row(prompt="中文问题"), ensure_ascii=False).encode("gbk"), "parse", "invalid_utf8"),
    "Latin-1": (json.dumps(row(prompt="déjà vu"), ensure_ascii=False).encode("latin-1"), "parse", "invalid_utf8"),
    "invalid UTF-8": (line().replace(b"four", b"fo\xff\xfe"), "parse", "invalid_utf8"),
    "surrogate in UTF-8": (line().replace(b"four", b"\xed\xa0\x80"), "parse", "invalid_utf8"),
    "deep nesting": (line()[:-1] + b', "x": ' + b"[" * 6000 + b"]" * 6000 + b"}", "parse", "nested_too_deep"),
    "nesting beyond the limit": (line()[:-1] + b', "x": ' + b"[" * 256 + b"]" * 256 + b"}", "parse", "nested_too_deep"),
    "Python repr": (repr(ROW).encode(), "parse", "invalid_json"),
    "raw control character": (line().replace(b"four", b"fo\x00ur"), "parse", "invalid_json"),
    "raw tab": (line().replace(b"four", b"fo\tur"), "parse", "invalid_json"),
    "trailing comma": (line()[:-1] + b",}", "parse", "invalid_json"),
    "cut line": (line()[:80], "parse", "invalid_json"),
    "two objects on a line": (line() + b" " + line(), "parse", "invalid_json"),
    "plain text": (b"# step 3 done", "parse", "invalid_json"),
}


@pytest.mark.parametrize("case", GROUPS)
def test_it_becomes_a_group(parse_rows: Parse, case: str) -> None:
    read = parse_rows([row(prompt_id="first"), GROUPS[case]])
    assert read.reasons == []
    assert read.input_rows == [0, 1]


@pytest.mark.parametrize("case", LETTERS)
def test_it_becomes_a_dead_letter(parse_rows: Parse, case: str) -> None:
    value, stage, reason = LETTERS[case]
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    read = parse_rows([row(prompt_id="first"), raw, row(prompt_id="last")])
    assert read.input_rows == [0, 2], "the neighbours are not touched"
    (letter,) = read.dead_letters
    assert (letter["row"], letter["stage"], letter["reason"], letter["raw"]) == (1, stage, reason, raw)
    assert letter["message"]
    assert letter["file"].endswith("rows.jsonl")


@pytest.mark.parametrize("text", [b"", b"   ", b"\t\r"])
def test_a_blank_line_is_dropped_and_counted(parse_rows: Parse, text: bytes) -> None:
    read = parse_rows([ROW, text])
    assert read.parsed[0].drops == {"blank_line": 1}
    assert read.parsed[0].rows == 2
    assert read.reasons == []


def test_a_raw_newline_makes_two_broken_rows(parse_rows: Parse) -> None:
    first, second = line().split(b"four")
    read = parse_rows([first, second])
    assert read.reasons == [(0, "invalid_json"), (1, "invalid_json")]


def test_the_first_of_two_rows_with_a_prompt_id_stays(parse_rows: Parse) -> None:
    other = row(prompt="something else")
    read = parse_rows([ROW, other, ROW, row(prompt_id="q")])
    assert read.input_rows == [0, 3]
    assert read.reasons == [(1, "duplicate_prompt_id"), (2, "duplicate_row")]
    assert "row 0" in read.dead_letters[0]["message"]


def test_a_row_that_is_no_group_does_not_take_its_prompt_id(parse_rows: Parse) -> None:
    read = parse_rows([row(candidates=[]), candidate(candidate_id="a"), ROW])
    assert read.input_rows == [2]
    assert read.reasons == [(0, "candidates_empty"), (1, "duplicate_candidate_id")]


def test_a_candidate_id_may_be_used_by_two_prompts(parse_rows: Parse) -> None:
    assert parse_rows([ROW, row(prompt_id="q")]).reasons == []


def test_text_becomes_one_message_with_the_role_of_its_place(parse_rows: Parse) -> None:
    group = parse_rows([{"prompt": "2 + 2?", "reference": "4", "candidates": ["four"]}]).groups.to_pylist()[0]
    assert group["prompt"] == [{"role": "user", "content": "2 + 2?"}]
    assert group["references"] == [[{"role": "assistant", "content": "4"}]]
    assert group["candidates"][0]["messages"] == [{"role": "assistant", "content": "four"}]


def test_text_is_kept_as_it_is(parse_rows: Parse) -> None:
    texts = [
        "",
        " \n\t ",
        "a\x00b",
        "\ufeffx\u200b",
        "e\u0301",
        "\u202eשלום",
        "a\u2028b\x85c",
        "𠀀\ue000",
        "<|reward|>",
    ]
    group = parse_rows([row(candidates=texts, prompt=" x\n", reference="")]).groups.to_pylist()[0]
    assert [candidate["messages"][0]["content"] for candidate in group["candidates"]] == texts
    assert group["prompt"][0]["content"] == " x\n"
    assert group["references"] == [[{"role": "assistant", "content": ""}]]


def test_text_parts_are_joined_with_nothing_between_them(parse_rows: Parse) -> None:
    parts = [{"type": "text", "text": "fi"}, {"type": "text", "text": "ve"}]
    group = parse_rows([candidate(messages=[{"role": "assistant", "content": parts}])]).groups.to_pylist()[0]
    assert group["candidates"][1]["messages"] == [{"role": "assistant", "content": "five"}]


@pytest.mark.parametrize(
    ("fields", "references"),
    [
        ({"reference": None}, []),
        ({"reference": []}, []),
        ({"reference": None, "references": None}, []),
        ({"references": [], "reference": "4"}, [["4"]]),
        ({"reference": "", "references": None}, [[""]]),
        ({"reference": None, "references": ["4", ""]}, [["4"], [""]]),
        ({"reference": [], "references": [[{"role": "assistant", "content": "a"}], "b"]}, [["a"], ["b"]]),
    ],
)
def test_references(parse_rows: Parse, fields: dict[str, Any], references: list[list[str]]) -> None:
    group = parse_rows([{**without("reference"), **fields}]).groups.to_pylist()[0]
    assert [[message["content"] for message in reference] for reference in group["references"]] == references


def test_unknown_columns_are_carried_with_every_digit(parse_rows: Parse) -> None:
    extra = b'"big": 123456789012345678901234567890, "f": 1.500, "e": 1E+3, "z": -0, '
    extra += b'"list": [ 1.0 , "\\u00e9\\/" ], "n": null'
    group = parse_rows([line()[:-1] + b", " + extra + b"}"]).groups.to_pylist()[0]
    assert group["extra"] == (
        '{"big":123456789012345678901234567890,"e":1E+3,"f":1.500,"list":[1.0,"é/"],"n":null,"z":-0}'
    )


def test_unknown_fields_of_a_candidate_are_carried_with_it(parse_rows: Parse) -> None:
    group = parse_rows([candidate(seed=7, sampling={"t": 0.70})]).groups.to_pylist()[0]
    assert [item["extra"] for item in group["candidates"]] == [None, '{"sampling":{"t":0.7},"seed":7}']
    assert group["extra"] is None


def test_further_fields_of_messages_are_carried_in_extra(parse_rows: Parse) -> None:
    prompt = [{"role": "user", "content": "x", "name": "Ann"}, {"role": "user", "content": "y", "name": None}]
    messages = [{"role": "assistant", "content": "x", "tool_calls": [{"id": 1}]}]
    group = parse_rows([row(prompt=prompt, candidates=[{"messages": messages}])]).groups.to_pylist()[0]
    assert json.loads(group["extra"]) == {"_message_fields": {"prompt": [{"name": "Ann"}, None]}}
    carried = json.loads(group["candidates"][0]["extra"])
    assert carried == {"_message_fields": {"messages": [{"tool_calls": [{"id": 1}]}]}}


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    "message",
    [{"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "assistant", "tool_calls": [CALL]}],
    ids=["null", "absent"],
)
def test_a_call_needs_no_content(message: dict[str, Any], parse_rows: Parse) -> None:
    group = parse_rows([candidate(messages=[message])]).groups.to_pylist()[0]
    assert group["candidates"][1]["messages"] == [{"role": "assistant", "content": ""}]
    assert json.loads(group["candidates"][1]["extra"]) == {"_message_fields": {"messages": [{"tool_calls": [CALL]}]}}


def test_parts_that_are_not_text_are_carried_and_the_texts_joined(parse_rows: Parse) -> None:
    parts = [{"type": "text", "text": "What is "}, IMAGE, {"type": "text", "text": "this?"}]
    group = parse_rows([row(prompt=[{"role": "user", "content": parts}])]).groups.to_pylist()[0]
    assert group["prompt"] == [{"role": "user", "content": "What is this?"}]
    carried = json.loads(group["extra"])["_message_fields"]["prompt"][0]["content"]
    assert [{key: item for key, item in part.items() if item is not None} for part in carried] == parts


def test_labels_are_carried(parse_rows: Parse) -> None:
    labels = [{"candidate_id": "a", "score": 1, "by": "me"}]
    group = parse_rows([row(labels=labels)]).groups.to_pylist()[0]
    assert json.loads(group["extra"]) == {"labels": labels}


def test_labels_of_another_shape_are_carried_when_the_recipe_says_that_they_are_none(parse_rows: Parse) -> None:
    read = parse_rows([row(labels=["good"])], columns=Columns(labels=None))
    assert read.groups.to_pylist()[0]["extra"] == '{"labels":["good"]}'


def test_a_byte_order_mark_at_the_start_of_a_file_is_read_past(parse_rows: Parse) -> None:
    assert parse_rows([b"\xef\xbb\xbf" + line(), row(prompt_id="q")]).input_rows == [0, 1]


def test_columns_are_mapped(parse_rows: Parse) -> None:
    columns = Columns(prompt_id="id", prompt="question", reference="gold", candidates="answers")
    read = parse_rows([{"id": 3, "question": "2 + 2?", "gold": "4", "answers": ["four"], "prompt": 1}], columns=columns)
    group = read.groups.to_pylist()[0]
    assert group["prompt_id"] == "3"
    assert group["prompt"][0]["content"] == "2 + 2?"
    assert group["extra"] == '{"prompt":1}'


def test_a_long_value_is_cut_in_a_message(parse_rows: Parse) -> None:
    read = parse_rows([row(prompt_id="x" * 5000), row(prompt_id="x" * 5000, prompt="y")])
    assert len(read.dead_letters[0]["message"]) < 200
