"""The facts that ``pipelines/sample/README.md`` states about the sample generations."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

SAMPLE = Path(__file__).parents[2] / "pipelines" / "sample" / "generations.jsonl"
SCORE_OF_GRADE = {"right": 5, "clumsy": 4, "subtly_wrong": 2, "cut_off": 2, "wrong": 1, "off_topic": 0}
TASKS = {"math", "fact", "science", "code", "translation", "summary", "rewrite", "format", "dialogue"}
HAN = re.compile(r"[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]


def texts(row: dict[str, Any]) -> list[str]:
    return [message["content"] for candidate in row["candidates"] for message in candidate["messages"]]


def grades(row: dict[str, Any]) -> list[str]:
    return [label["grade"] for label in row["labels"]]


def test_there_are_24_english_and_16_chinese_prompts(rows: list[dict[str, Any]]) -> None:
    assert Counter(row["lang"] for row in rows) == {"en": 24, "zh": 16}


def test_the_prompt_is_written_in_its_language(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        in_chinese = HAN.search(row["prompt"][-1]["content"]) is not None
        assert in_chinese == (row["lang"] == "zh"), row["prompt_id"]


def test_the_file_is_plain_utf_8_of_less_than_200_kb() -> None:
    raw = SAMPLE.read_bytes()
    assert len(raw) < 200_000
    assert raw.endswith(b"}\n")
    assert b"\r" not in raw
    assert b"\\u" not in raw
    assert not raw.startswith(b"\xef\xbb\xbf")


def test_each_row_has_exactly_the_documented_fields(rows: list[dict[str, Any]]) -> None:
    fields = {"prompt_id", "prompt", "reference", "candidates", "lang", "task", "labels"}
    assert all(set(row) == fields for row in rows)


def test_prompt_ids_are_unique(rows: list[dict[str, Any]]) -> None:
    assert len({row["prompt_id"] for row in rows}) == len(rows)


def test_every_task_occurs_and_no_other(rows: list[dict[str, Any]]) -> None:
    assert {row["task"] for row in rows} == TASKS


def test_each_prompt_has_four_to_eight_different_candidates_and_276_in_all(rows: list[dict[str, Any]]) -> None:
    assert all(4 <= len(row["candidates"]) <= 8 for row in rows)
    assert all(len(set(texts(row))) == len(row["candidates"]) for row in rows)
    assert sum(len(row["candidates"]) for row in rows) == 276


def test_each_candidate_is_labelled_with_a_known_grade_and_its_score(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        numbered = [f"c{i}" for i in range(1, len(row["candidates"]) + 1)]
        assert [candidate["candidate_id"] for candidate in row["candidates"]] == numbered
        assert [label["candidate_id"] for label in row["labels"]] == numbered
        assert all(label["score"] == SCORE_OF_GRADE[label["grade"]] for label in row["labels"])


def test_each_prompt_has_a_right_a_clumsy_and_a_wrong_candidate(rows: list[dict[str, Any]]) -> None:
    assert all({"right", "clumsy", "wrong"} <= set(grades(row)) for row in rows)


def test_each_grade_occurs_at_least_30_times(rows: list[dict[str, Any]]) -> None:
    counts = Counter(grade for row in rows for grade in grades(row))
    assert set(counts) == set(SCORE_OF_GRADE)
    assert min(counts.values()) >= 30


def test_neither_the_place_nor_the_model_name_gives_the_grade_away(rows: list[dict[str, Any]]) -> None:
    grades_by_place: dict[str, set[str]] = {}
    grades_by_model: dict[str, set[str]] = {}
    for row in rows:
        for candidate, grade in zip(row["candidates"], grades(row), strict=True):
            grades_by_place.setdefault(candidate["candidate_id"], set()).add(grade)
            grades_by_model.setdefault(candidate["model"], set()).add(grade)
    assert set(grades_by_model) == {"model-a", "model-b", "model-c", "model-d"}
    assert all(found == set(SCORE_OF_GRADE) for found in grades_by_model.values())
    assert all(len(found) >= 4 for found in grades_by_place.values())


def test_candidates_and_references_are_one_assistant_message(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        answers = [row["reference"], *(candidate["messages"] for candidate in row["candidates"])]
        assert all([message["role"] for message in answer] == ["assistant"] for answer in answers)
        assert all(answer[0]["content"].strip() for answer in answers)


def test_the_reference_is_none_of_the_candidates(rows: list[dict[str, Any]]) -> None:
    assert all(row["reference"][0]["content"] not in texts(row) for row in rows)


def test_two_prompts_have_earlier_turns_and_one_has_a_system_message(rows: list[dict[str, Any]]) -> None:
    roles = Counter(tuple(message["role"] for message in row["prompt"]) for row in rows)
    assert roles == {("user",): 37, ("user", "assistant", "user"): 2, ("system", "user"): 1}
