"""A wrong column name is found in the head of the input, with the setting that is likely to be meant."""

import gzip
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import rows, write_jsonl, write_parquet

from polar_ray.data.column_names import check_column_names
from polar_ray.data.heads import HEAD_ROWS
from polar_ray.data.listing import list_input
from polar_ray.errors import InputError
from polar_ray.recipe.input import Input
from polar_ray.recipe.overrides import apply_overrides

WRITERS = {"jsonl": write_jsonl, "parquet": write_parquet}


def check(path: Path, needs_reference: bool = False, **settings: Any) -> None:
    config = Input.model_validate({"path": str(path), **settings})
    check_column_names(list_input(config), config, needs_reference=needs_reference)


def refusal(path: Path, needs_reference: bool = False, **settings: Any) -> str:
    with pytest.raises(InputError) as refused:
        check(path, needs_reference, **settings)
    return str(refused.value)


def renamed(names: dict[str, str], fields: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Rows of the ``groups`` layout under other names."""
    made = []
    for row in rows(3):
        row["candidates"] = [
            {(fields or {}).get(key, key): value for key, value in candidate.items()} for candidate in row["candidates"]
        ]
        made.append({names.get(key, key): value for key, value in row.items()})
    return made


def flat(names: dict[str, str]) -> list[dict[str, Any]]:
    """Rows of the ``candidates`` layout under other names."""
    made = []
    for row in rows(3):
        for candidate in row.pop("candidates"):
            made.append({names.get(key, key): value for key, value in {**row, **candidate}.items()})
    return made


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Writes rows into one file, in either format, and returns its path."""
    return lambda data, name="in": WRITERS[request.param](tmp_path / "in" / f"{name}.{request.param}", data)


def test_the_message_names_the_columns_and_the_setting(write: Any) -> None:
    path = write(renamed({"candidates": "outputs"}))
    assert refusal(path) == (
        f"{path}: no column `candidates`; the columns are prompt_id, prompt, reference, outputs, lang; "
        "set input.columns.candidates=outputs"
    )
    check(path, columns={"candidates": "outputs"})


def test_names_of_a_candidates_fields_are_guessed_with_it(write: Any) -> None:
    path = write(renamed({"candidates": "outputs"}, {"candidate_id": "output_id", "messages": "content"}))
    fields = "input.candidate_fields.candidate_id=output_id input.candidate_fields.messages=content"
    assert refusal(path).endswith(f"; set input.columns.candidates=outputs {fields}")
    columns = {"candidates": "outputs"}
    assert refusal(path, columns=columns) == (
        f"{path}: the candidates have no field `messages`; their fields are output_id, content, model; set {fields}"
    )
    check(path, columns=columns, candidate_fields={"candidate_id": "output_id", "messages": "content"})


@pytest.mark.parametrize("layout", ["candidates", "scattered"])
def test_a_row_per_candidate_is_held_to_its_own_columns(write: Any, layout: str) -> None:
    path = write(flat({"messages": "completion", "prompt": "question"}))
    message = refusal(path, layout=layout)
    assert "no columns `prompt` and `messages`; the columns are prompt_id, question, " in message
    assert message.endswith("; set input.columns.prompt=question input.candidate_fields.messages=completion")
    check(path, layout=layout, columns={"prompt": "question"}, candidate_fields={"messages": "completion"})


def test_a_layout_that_is_likely_to_be_meant_is_named(write: Any) -> None:
    path = write(flat({"messages": "response"}), "rows")
    assert refusal(path).endswith(
        "if each row is one candidate, with its text in `response`: set input.layout=candidates "
        "input.candidate_fields.messages=response"
    )
    path = write(renamed({"candidates": "samples"}), "groups")
    assert refusal(path, layout="candidates").endswith(
        "if each row has all candidates of a prompt, in `samples`: set input.layout=groups "
        "input.columns.candidates=samples"
    )


def test_the_layout_comes_with_all_that_it_needs_at_once(write: Any) -> None:
    path = write([{"question": "q", "response": "r", "answer": "42", "id": "1"}])
    assert refusal(path, True).endswith(
        ": no columns `prompt`, `candidates` and `reference`; the columns are question, response, answer, id; if each "
        "row is one candidate, with its text in `response`: set input.layout=candidates "
        "input.candidate_fields.messages=response input.columns.prompt=question input.columns.reference=answer"
    )
    columns = {"prompt": "question", "reference": "answer"}
    check(path, True, layout="candidates", columns=columns, candidate_fields={"messages": "response"})
    path = write([{"response": "r", "x": 1}], "unknown")
    assert refusal(path, True).endswith(
        "input.candidate_fields.messages=response and set input.columns.prompt and input.columns.reference to the "
        "right ones"
    )
    path = write([{"question": "q", "outputs": ["a"], "gold": "g"}], "groups")
    assert refusal(path, True, layout="candidates").endswith(
        "set input.layout=groups input.columns.candidates=outputs input.columns.prompt=question "
        "input.columns.reference=gold"
    )


def test_the_file_that_is_named_has_rows(write: Any, tmp_path: Path) -> None:
    first = write([{"text": "x"}], "b")
    write([{"text": "x"}], "c")
    for name in ("a.jsonl", "d.parquet"):
        (tmp_path / "in" / name).write_bytes(b"")
    assert refusal(first.parent).startswith(f"{first}, and a sample of the 3 other files: no column")


def test_a_name_that_says_nothing_is_guessed_by_its_type(write: Any) -> None:
    path = write(renamed({"candidates": "x1", "prompt": "x2"}))
    assert refusal(path).endswith("; set input.columns.candidates=x1 and set input.columns.prompt to the right one")


def test_several_columns_are_listed_as_in_a_sentence(write: Any) -> None:
    assert refusal(write([{"a": 1}]), True).endswith(
        ": no columns `prompt`, `candidates` and `reference`; the columns are a; set input.columns.prompt, "
        "input.columns.candidates and input.columns.reference to the right ones"
    )


def test_a_column_of_a_type_that_cannot_be_read_is_refused(write: Any) -> None:
    path = write(renamed({}))
    message = refusal(path, columns={"candidates": "lang"})
    assert "column `lang` holds text, not a list of candidates; the columns are prompt_id, " in message
    assert message.endswith("; set input.columns.candidates=candidates")


def test_a_reference_is_needed_where_a_scorer_needs_it(write: Any) -> None:
    path = write(renamed({"reference": "gold_answer"}))
    check(path)
    message = refusal(path, True)
    assert "no column `reference`; " in message
    assert "input.columns.reference" in message
    check(path, True, columns={"reference": "gold_answer"})
    check(path, True, columns={"references": "gold_answer"})


def test_a_file_further_on_that_has_the_columns_is_enough(write: Any) -> None:
    for number in range(4):
        path = write(renamed({"candidates": "outputs"}), f"{number}")
    assert ", and a sample of the 3 other files: no column `candidates`" in refusal(path.parent)
    write(renamed({}), "2")
    check(path.parent)


def test_one_row_of_the_head_or_the_end_that_has_the_columns_is_enough(tmp_path: Path) -> None:
    bad = [{"text": "x" * 2000}] * HEAD_ROWS
    for data in ([*bad[1:], *rows(1), *bad], [*bad, *rows(1)], [*bad, *rows(1), *bad[:400]]):
        check(write_jsonl(tmp_path / "in.jsonl", data))
    path = write_jsonl(tmp_path / "in.jsonl", [*bad, *rows(1), *bad])
    assert "the columns are text;" in refusal(path)
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert "the columns are text;" in refusal(tmp_path / "in.jsonl.gz")
    check(tmp_path, columns={"prompt": "text"}, layout="candidates", candidate_fields={"messages": "text"})


def test_lines_that_are_no_rows_and_candidates_of_other_kinds_are_passed_over(tmp_path: Path) -> None:
    (good,) = rows(1)
    mixed = [{**good, "candidates": None}, {**good, "candidates": []}, {**good, "candidates": ["plain text"]}]
    lines = b"\xff\n\n[1]\n{cut\n" + b"".join(msgspec.json.encode(row) + b"\n" for row in mixed)
    path = tmp_path / "in.jsonl"
    path.write_bytes(lines)
    check(path)


def test_a_file_without_rows_or_that_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "b.parquet").write_bytes(b"no Parquet")
    write_parquet(tmp_path / "c.parquet", [{"text": "x"}])
    path = write_parquet(tmp_path / "d.parquet", rows(1))
    check(tmp_path)
    path.unlink()
    assert "the columns are text;" in refusal(tmp_path)
    (tmp_path / "c.parquet").unlink()
    check(tmp_path)


def test_a_setting_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", renamed({"candidates": "{outputs}", "prompt": "my prompt"}))
    message = refusal(path)
    assert message.endswith("; set 'input.columns.prompt=my prompt' 'input.columns.candidates=\"{outputs}\"'")
    pasted = [assignment.removeprefix("input.") for assignment in shlex.split(message.partition("; set ")[2])]
    check(path, **apply_overrides({}, pasted))
