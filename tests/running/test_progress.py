"""Progress in a log is a line every few seconds, in a terminal a bar."""

import io
import re
from pathlib import Path

import pytest
from conftest import rows, write_jsonl
from rich.console import Console
from runs import commit, recipe

from polar_ray.running.progress import Bar, LogLines, Silent, reporter, summary
from polar_ray.running.run import run
from polar_ray.running.tally import Tally


def tally(splits: int, tokens: int = 100) -> Tally:
    return Tally(commit(tokens={"": tokens}) for _ in range(splits))


def test_a_summary_has_candidates_rates_and_dead_letters() -> None:
    line = summary(tally(1000), 1234.6, 56789.0)
    assert line == "14,000 candidates, 1,235 candidates/s, 56,789 tokens/s, 2,000 dead letters"


def test_a_scorer_without_tokens_has_no_tokens_per_second() -> None:
    assert summary(tally(1, tokens=0), 10.0, 0.0) == "14 candidates, 10 candidates/s, 2 dead letters"


def test_log_lines_say_how_far_the_run_is(capsys: pytest.CaptureFixture[str]) -> None:
    lines = LogLines(every_s=0)
    lines.say("resuming: 2 splits")
    lines.begin(0.25)
    for splits in (1, 2, 3, 4):
        lines.update(tally(splits), splits / 4)
    lines.end()
    lines.done(tally(3), 7.0, 1234.0)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0] == "resuming: 2 splits"
    assert captured.err.splitlines()[1].startswith(" 25.0% ")
    *_, third, last, result = captured.err.splitlines()
    pattern = (
        r" *(\S+%) (\d+) candidates, [\d,]+ candidates/s, [\d,]+ tokens/s, (\d+) dead letters, (\d+:\d\d:\d\d) left"
    )
    for line, share, candidates, letters in ((third, "75.0%", "42", "6"), (last, "100.0%", "56", "8")):
        match = re.fullmatch(pattern, line)
        assert match is not None, line
        assert match.groups()[:3] == (share, candidates, letters)
    assert last.endswith("0:00:00 left")
    assert result == "100.0% 42 candidates, 7 candidates/s, 1,234 tokens/s, 6 dead letters"


def test_the_split_of_an_empty_file_is_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    lines = LogLines()
    lines.begin(0.0)
    lines.update(Tally([commit(rows=0)]), 1.0)
    assert "split committed" not in capsys.readouterr().err
    lines.update(tally(1), 1.0)


def test_log_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    lines = LogLines(every_s=1000)
    lines.begin(0.0)
    for splits in range(1, 1000):
        lines.update(tally(1), splits / 1000)
    assert len(capsys.readouterr().err.splitlines()) <= 2


def test_a_bar_shows_share_figures_and_what_is_said() -> None:
    output = io.StringIO()
    bar = Bar(Console(file=output, force_terminal=True, width=120))
    bar.begin(0.0)
    bar.say("a node was lost; going on [bold]:smile:")
    bar.update(tally(1), 0.5)
    bar.update(tally(3), 1.0)
    bar.end()
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", output.getvalue())
    assert "a node was lost; going on [bold]:smile:" in text
    assert "100%" in text
    assert "42 candidates" in text
    assert "6 dead letters" in text


def test_output_that_is_no_terminal_gets_log_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(reporter(), LogLines)


def test_use_from_python_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    silent = Silent()
    silent.say("x")
    silent.begin(0.0)
    silent.update(tally(1), 1.0)
    silent.end()
    silent.done(tally(1), 1.0, 1.0)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.usefixtures("embedded_ray")
def test_progress_ends_with_the_figures_of_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The last split holds the first again: three candidates and a row each that do not stay.
    write_jsonl(tmp_path / "in.jsonl", [*rows(4), *rows(2)])
    settings = ("input.split_rows=2", "limits.max_dead_letters=2")
    manifest = run(recipe(tmp_path / "in.jsonl", tmp_path / "out", *settings), reporter=LogLines())
    assert (manifest.counts["candidates"], manifest.counts["dead_letters"]) == (12, {"duplicate_row": 2})
    last = capsys.readouterr().err.splitlines()[-1]
    rate = f"{manifest.throughput['candidates_per_s']:,.0f}"
    assert last == f"100.0% 12 candidates, {rate} candidates/s, 2 dead letters"
