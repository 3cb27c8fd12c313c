"""What `show` prints of groups is the data's own text."""

import random
from typing import Any

import pyarrow as pa
import pytest
from score_tables import assistant, group, score_table, user

from polar_ray.showing import TEXT_WIDTH, print_groups

CHINESE = "买了156−48个苹果，每箱装十个，所以一共需要=10箱才能装下全部的苹果和梨子，最后的答案是10箱。" * 4
PIECES = ["箱", "。", "，", "a", "bc", " ", "\n", "−", "€", "é", "한", "x" * 30, "ｗ", "ﾊ", "❤️"]


def shown(row: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> tuple[str, str, str]:
    """Prints one group; returns its title, its reference and its only candidate, each without white space."""
    print_groups(score_table([{**row, "rank": [0]}], rank=pa.list_(pa.int32())))
    title, _, body = capsys.readouterr().out.partition("┏")
    rows = [line.split("│")[3] for line in body.partition("┩")[2].splitlines() if line.startswith("│")]
    first = next(place for place, line in enumerate(rows) if "candidate-text" in line)
    return tuple("".join("".join(part).split()) for part in (title, rows[:first], rows[first:]))  # type: ignore[return-value]


def assert_whole(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"prompt": [user(text)], "references": [[assistant(text)]]}
    plain = "".join(text.split())
    assert shown(group("p", [1.0], ["candidate-text" + text], **texts), capsys) == (
        plain,
        "reference:" + plain,
        "candidate-text" + plain,
    )


def test_a_text_without_spaces_is_wrapped_and_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert_whole(CHINESE, capsys)


def test_no_text_is_altered_where_its_lines_wrap(capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(1)
    for _ in range(100):
        assert_whole("".join(draw.choices(PIECES, k=draw.randrange(1, 80)))[: TEXT_WIDTH - 20], capsys)


def test_a_long_text_is_cut_at_its_end_only(capsys: pytest.CaptureFixture[str]) -> None:
    text = "candidate-text" + "长" * TEXT_WIDTH
    assert shown(group("p", [1.0], [text]), capsys)[2] == text[:TEXT_WIDTH] + "…"


def test_a_status_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    row = group("p", [-123456.5], status=["truncated"])
    print_groups(score_table([{**row, "rank": [0]}], rank=pa.list_(pa.int32())))
    assert "-123456.500" in (out := capsys.readouterr().out)
    assert "truncated" in out
