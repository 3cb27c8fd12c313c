"""POLAR's ids, held to those of the original client."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polar_ray.data.group import Candidate, Group, Message, groups_to_table
from polar_ray.errors import CheckpointError, RecipeError, TokenizerError
from polar_ray.scorers.base import ENCODED_SCHEMA
from polar_ray.scorers.polar_cut import PolarCut
from polar_ray.scorers.polar_encoder import PolarEncoder

GOLDEN = Path(__file__).parents[1] / "golden" / "polar"
FOLDER = GOLDEN / "polar_tiny_a"
CONTENT = json.loads((GOLDEN / "encode_cases.json").read_text())
BOS, SEPARATOR, END = 1, 3, 133
# Where a text holds control tokens the original parses or drops them; here they stay text.
INJECTIONS = {
    "inject_separator",
    "inject_reward_token",
    "inject_specials",
    "looks_like_bos",
    "cut_default_specials_near_the_cut",
    "cut_left_specials_near_the_cut",
    "cut_right_specials_near_the_cut",
}
CASES = [case for case in CONTENT["cases"] if not case["name"].startswith("quirk")]
ORDINARY = [case for case in CASES if case["name"] not in INJECTIONS]
QUIRKS = [case for case in CONTENT["cases"] if case["name"].startswith("quirk")]


def messages(value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", value),)
    return tuple(Message(message.get("role", ""), message["content"]) for message in value)


def group_of(data: dict[str, Any]) -> Group:
    candidate = Candidate("0", messages(data["output"]))
    return Group("p", messages(data["prompt"]), (messages(data["reference"]),), (candidate,))


def plain_group(prompt: str, references: list[str], candidates: list[str]) -> Group:
    return Group(
        "p",
        messages(prompt),
        tuple(messages(reference) for reference in references),
        tuple(Candidate(str(number), messages(text)) for number, text in enumerate(candidates)),
    )


def settings_of(case: dict[str, Any]) -> dict[str, Any]:
    # Any other wrapper than "pretrain" is "sft" to the original.
    wrapper = "pretrain" if case["data"].get("wrapper") == "pretrain" else "sft"
    return {**CONTENT["defaults"][case["client"]], **case["init"], "wrapper": wrapper}


def encode(group: Group, folder: Path = FOLDER, **settings: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (
        PolarEncoder.from_pretrained(folder, **settings).encode(groups_to_table([group])).to_pylist()
    )
    return rows


@pytest.fixture(scope="module")
def json_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("json")
    shutil.copy(FOLDER / "config.json", folder)
    shutil.copytree(GOLDEN / "tiny_tokenizer_polar", folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "model"))


@pytest.mark.parametrize("case", ORDINARY, ids=lambda case: f"{case['name']}-{case['client']}")
def test_ids_are_the_original_clients(case: dict[str, Any]) -> None:
    (row,) = encode(group_of(case["data"]), **settings_of(case))
    assert row["ids"] == case["input_ids"]


def test_ids_are_the_original_clients_with_tokenizer_json(json_folder: Path) -> None:
    for case in ORDINARY:
        (row,) = encode(group_of(case["data"]), json_folder, **settings_of(case))
        assert row["ids"] == case["input_ids"], case["name"]


def test_decoding_shows_the_original_clients_string() -> None:
    for case in ORDINARY:
        encoder = PolarEncoder.from_pretrained(FOLDER, **settings_of(case))
        ids = encoder.encode(groups_to_table([group_of(case["data"])])).column("ids")[0].as_py()
        assert encoder.decode(np.array(ids)) == "<s>" + case["encoded"], case["name"]


def test_control_tokens_in_a_text_stay_text() -> None:
    # T18: a candidate that holds the separator or the end token must not change the sequence's build.
    chosen = [case for case in CASES if case["name"] in INJECTIONS]
    assert len(chosen) >= len(INJECTIONS)
    for case in chosen:
        (row,) = encode(group_of(case["data"]), **settings_of(case))
        ids = row["ids"]
        assert [ids.count(control) for control in (BOS, SEPARATOR, END)] == [1, 1, 1], case["name"]
        assert (ids[0], ids[-1]) == (BOS, END)
        assert set(ids) & {0, 2, *range(4, 133), *range(134, 150)} == set(), case["name"]


CONTROL_LIKE = st.sampled_from(["<|reward|>", "[UNUSED_TOKEN_130]", "<s>", "</s>", "<|im_start|>", "<unk>", "\n", " "])
TEXT = st.lists(
    CONTROL_LIKE | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8), max_size=6
).map("".join)
ENCODER = PolarEncoder.from_pretrained(FOLDER)


@given(TEXT, TEXT, TEXT)
@settings(deadline=None)
def test_every_sequence_is_built_of_the_same_parts(prompt: str, reference: str, candidate: str) -> None:
    # T4, T5: one BOS, one separator, one end, in these places, whatever the texts are.
    ids = ENCODER.encode(groups_to_table([plain_group(prompt, [reference], [candidate])])).column("ids")[0].as_py()
    assert [ids.count(control) for control in (BOS, SEPARATOR, END)] == [1, 1, 1]
    assert (ids[0], ids[-1]) == (BOS, END)
    halves = f"<s>{prompt}\n{reference}<|reward|>{prompt}\n{candidate}[UNUSED_TOKEN_130]"
    assert ENCODER.decode(np.array(ids)) == halves


@pytest.mark.parametrize(
    ("name", "truncated"),
    [
        ("readme_same", False),
        ("cut_right_long_output", True),
        ("cut_right_long_reference", True),
        ("cut_right_long_prompt", True),
        ("cut_left_long_all", True),
        ("boundary_output_16_of_16", False),
        ("boundary_output_17_of_16", True),
        ("boundary_prompt_40_of_40", False),
        # One id too many only costs the BOS that the original counts, so no text is lost.
        ("boundary_prompt_41_of_40", False),
        ("boundary_prompt_42_of_40", True),
    ],
)
def test_a_sequence_that_lost_text_is_marked_truncated(name: str, truncated: bool) -> None:
    # T17: the end token survives every cut, and the cut is recorded.
    case = next(case for case in CASES if case["name"] == name)
    (row,) = encode(group_of(case["data"]), **settings_of(case))
    assert row["status"] == ("truncated" if truncated else "ok")
    assert (row["ids"][0], row["ids"][-1]) == (BOS, END)


@pytest.mark.parametrize("case", QUIRKS, ids=lambda case: case["name"])
def test_the_cut_is_the_originals_even_without_room_for_the_prompt(case: dict[str, Any]) -> None:
    tokenizer = ENCODER._tokens.tokenizer
    cut = PolarCut(case["init"]["max_length"], case["init"]["max_response_length"], "right")
    prompt, reference, output = (tokenizer.encode_text(case["data"][key]) for key in ("prompt", "reference", "output"))
    kept = tokenizer.decode(cut.prompt(prompt, reference, output))
    assert case["encoded"].startswith(kept + "\n")


def test_limits_without_room_for_the_prompt_are_refused() -> None:
    with pytest.raises(RecipeError, match="Set max_response_length to at most 47"):
        PolarEncoder.from_pretrained(FOLDER, max_length=100)
    PolarEncoder.from_pretrained(FOLDER, max_length=100, max_response_length=47)


def test_rows_follow_groups_candidates_and_references() -> None:
    groups = [
        plain_group("one", ["a", "b"], ["x", "y"]),
        plain_group("two", [], ["x", "y"]),
        plain_group("three", ["c"], ["z"]),
    ]
    table = ENCODER.encode(groups_to_table(groups))
    assert table.schema == ENCODED_SCHEMA
    assert table.select(["group", "candidate", "reference"]).to_pylist() == [
        {"group": group, "candidate": candidate, "reference": reference}
        for group, candidate, reference in [
            (0, 0, 0),
            (0, 0, 1),
            (0, 1, 0),
            (0, 1, 1),
            (1, 0, 0),
            (1, 1, 0),
            (2, 0, 0),
        ]
    ]
    assert table.column("status").to_pylist() == ["ok"] * 4 + ["no_reference"] * 2 + ["ok"]
    assert [ids is None for ids in table.column("ids").to_pylist()] == [False] * 4 + [True] * 2 + [False]
    shown = [ENCODER.decode(np.array(ids)) for ids in table.column("ids").to_pylist() if ids is not None]
    assert shown[1] == "<s>one\nb<|reward|>one\nx[UNUSED_TOKEN_130]"
    assert shown[4] == "<s>three\nc<|reward|>three\nz[UNUSED_TOKEN_130]"


def test_only_the_first_reference_is_encoded_where_only_it_counts() -> None:
    rows = encode(plain_group("one", ["a", "b"], ["x", "y"]), references="first")
    assert [(row["candidate"], row["reference"]) for row in rows] == [(0, 0), (1, 0)]


def test_a_slice_of_a_table_encodes_like_a_table_of_its_own() -> None:
    groups = [plain_group(f"prompt {number}", ["a", "bb"], ["x", "y y"]) for number in range(5)]
    whole = groups_to_table(groups)
    assert ENCODER.encode(whole.slice(3, 2)) == ENCODER.encode(groups_to_table(groups[3:]))
    assert ENCODER.encode(pa.concat_tables([whole.slice(0, 2), whole.slice(2)])) == ENCODER.encode(whole)
    assert ENCODER.encode(whole.slice(0, 0)).num_rows == 0


def test_ids_of_one_text_do_not_depend_on_the_table() -> None:
    long = "the capital of China is Beijing and the answer is three " * 900
    groups = [plain_group("p", ["r"], ["o", long]), plain_group(long, ["r", long], ["o", long])]
    together = ENCODER.encode(groups_to_table(groups)).to_pylist()
    alone = [row for group in groups for row in ENCODER.encode(groups_to_table([group])).to_pylist()]
    assert [row["ids"] for row in together] == [row["ids"] for row in alone]
    assert [row["status"] for row in together] == ["ok", "truncated", *["truncated"] * 4]


def test_thinking_is_stripped_where_the_recipe_says_so() -> None:
    group = plain_group("p", ["<think>why</think>\n\nr"], ["<think>a\nb</think> o ", "no end <think> o", "plain"])
    rows = encode(group, strip_think=True)
    shown = [ENCODER.decode(np.array(row["ids"])) for row in rows]
    assert shown == [f"<s>p\nr<|reward|>p\n{answer}[UNUSED_TOKEN_130]" for answer in ("o", "no end <think> o", "plain")]
    assert "think" in ENCODER.decode(np.array(encode(group)[0]["ids"]))


def test_a_sequence_beyond_the_models_positions_is_too_long(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    rows = encode(plain_group("p", ["r"], ["o", "one two three " * 40]), folder)
    assert [row["status"] for row in rows] == ["ok", "too_long"]
    assert rows[1]["ids"] is None


def test_a_model_of_the_other_family_is_refused() -> None:
    with pytest.raises(TokenizerError, match="Use kind: internlm2_reward"):
        PolarEncoder.from_pretrained(GOLDEN / "internlm2_reward_tiny")


def test_a_tokenizer_without_the_separator_is_refused(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(TokenizerError, match=r"no control token <\|reward\|>"):
        PolarEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"reward_token_id": 1000}, TokenizerError, "reward_token_id 1000 lies outside the vocabulary"),
        ({"bos_token_id": 5}, TokenizerError, "BOS is id 5"),
        ({"model_type": "llama"}, CheckpointError, "not an InternLM2 reward model"),
    ],
)
def test_a_config_that_contradicts_the_tokenizer_is_refused(
    folder: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(error, match=message):
        PolarEncoder.from_pretrained(folder)


def test_a_tokenizer_that_adds_no_bos_is_refused(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_bos_token": False}))
    with pytest.raises(TokenizerError, match="trained with BOS"):
        PolarEncoder.from_pretrained(folder)
