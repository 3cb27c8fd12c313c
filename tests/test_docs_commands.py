"""The commands in the documents run as they are printed, in order, and print what stands below them.

Left out are commands that need a bucket, a cluster, the package index or a machine's settings; see ``NEEDS_MORE``.
"""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from polar_ray.cli import main

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "pipelines" / "sample" / "generations.jsonl"
DOCUMENTS = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
NEEDS_MORE = re.compile(r"s3://|^ray |^pip |^git |^cd |^python -m venv|^\. ")
MEASURED = re.compile(r"\d[\d,.]* (?:s|ms)\b|\d[\d,.]* candidates/s|\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ")
DRAWN = re.compile(r"[│┃━─…]")
"""Lines of a table of candidates, of which the documents show a part, and the sign for what is left out."""


def commands_of(document: str) -> list[tuple[str, list[str]]]:
    """The commands of a document and the lines below each, without those that need more than is here."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", "").splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line:
                found[-1][1].append(line)
    return [(command, below) for command, below in found if not NEEDS_MORE.search(command)]


def arguments_of(command: str) -> list[str]:
    """The command line of ``polar-ray`` that a command comes to."""
    if command == "make demo":
        recipe = re.search(r"^\t@\$\(BIN\)/(polar-ray run .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert recipe is not None
        command = recipe[1].replace("$(OUT)", "out/demo")
    words = shlex.split(command, comments=True)
    assert words[0] == "polar-ray", f"{command} is no command of polar_ray; if it cannot run here, say so in NEEDS_MORE"
    return words


def comparable(text: str, here: Path) -> list[str]:
    """Lines without what is measured: times, rates, dates, and how busy the stages were."""
    lines = []
    for line in MEASURED.sub("#", text.replace(f"{here}/", "")).splitlines():
        busy = line.startswith(("busy: ", "the scorer ", "the model "))
        lines.append(re.sub(r"\d[\d.]*", "#", line).rstrip() if busy else line.rstrip())
    return lines


def prepare_a_run_with_a_torn_row() -> None:
    """The run that docs/curation.md retries: its input had a torn row, which was mended since."""
    lines = SAMPLE.read_bytes().splitlines(keepends=True)[:21]
    Path("torn.jsonl").write_bytes(b"".join([*lines[:20], lines[20][:100], b"\n"]))
    assert run_here(["run", "pipelines/demo.yaml", "input.path=torn.jsonl", "output.path=out/scored"]) == 0
    Path("torn.jsonl").write_bytes(b"".join(lines))


def run_here(arguments: list[str]) -> int:
    """Runs a command in this process, where Ray is running already; returns the exit code."""
    sys.argv = ["polar-ray", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_there_are_commands_to_run() -> None:
    assert sum(len(commands_of(document)) for document in DOCUMENTS) >= 8


def test_the_commands_print_what_the_documents_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], embedded_ray: None
) -> None:
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    wrong = []
    for document in DOCUMENTS:
        # Every page begins with what "Try it" in the README leaves.
        for left in Path("out").glob("*"):
            if left.name != "demo":
                shutil.rmtree(left)
        if document == "docs/curation.md":
            prepare_a_run_with_a_torn_row()
        for command, below in commands_of(document):
            capsys.readouterr()
            code = run_here(arguments_of(command)[1:])
            said = capsys.readouterr()
            if code:
                wrong.append(f"{document}: {command}: exit code {code}: {said.err}")
                continue
            lines = comparable(said.out, Path(os.getcwd())) + comparable(said.err, Path(os.getcwd()))
            expected = [line for line in below if not DRAWN.search(line)]
            missing = [line for line in comparable("\n".join(expected), tmp_path) if line not in lines]
            wrong += [f"{document}: {command}: does not print: {line}" for line in missing]
            if missing:
                wrong.append("it prints:\n" + "\n".join(lines))
    assert not wrong, "\n".join(wrong)
