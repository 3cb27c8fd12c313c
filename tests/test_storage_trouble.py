"""Ordinary trouble with a storage ends a command in one sentence, whichever command and whichever storage it is."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import rows, write_jsonl
from s3_server import Bucket, bucket, environment
from score_tables import group, score_table, write_run

from polar_ray.cli import main
from polar_ray.data.faults import is_away

Sentence = Callable[..., str]
GONE = "http://127.0.0.1:9"
"""Nothing answers there."""


@pytest.fixture(scope="module")
def store() -> Iterator[Bucket]:
    with bucket() as made, environment(made.environment):
        yield made


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = score_table([group(f"p{number}", [1.0, 2.0 * number]) for number in range(5)])
    return write_run(tmp_path_factory.mktemp("scored") / "run", table)


@pytest.fixture
def recipes(tmp_path: Path, scored: Path) -> dict[str, Path]:
    """A recipe of each kind of command."""
    write_jsonl(tmp_path / "in.jsonl", rows(2))
    limits = {"storage_wait_s": 0.1}
    run = {"input": {"path": str(tmp_path / "in.jsonl")}, "scorer": {"kind": "length"}, "limits": limits}
    derive = {"run": {"path": str(scored)}, "best_of_n": {"top_k": 1}, "export": {"kind": "trl_sft"}, "limits": limits}
    paths = {"run": tmp_path / "run.json", "derive": tmp_path / "derive.json"}
    for path, parts in zip(paths.values(), (run, derive), strict=True):
        path.write_text(json.dumps({**parts, "output": {"path": str(tmp_path / "out")}}))
    return {**paths, "plan": paths["run"]}


@pytest.fixture
def sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sentence:
    """Runs a command that must fail, and returns the one sentence that it ends with."""

    def call(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["polar-ray", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 1
        return _last_sentence(capsys.readouterr().err)

    return call


def _last_sentence(errors: str) -> str:
    *before, last = errors.splitlines()
    assert "Traceback" not in errors
    assert all("waiting for it" in line for line in before), errors
    found = re.fullmatch(r"polar-ray: [A-Z]\w+: (.*)", last)
    assert found is not None, errors
    return found[1]


def test_a_report_is_written_to_an_object_store(
    store: Bucket, scored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = "s3://bucket/pages/report.html"
    monkeypatch.setattr(sys, "argv", ["polar-ray", "report", str(scored), "-o", output, "--processes", "1"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert output in capsys.readouterr().out
    assert store.get("pages/report.html").lstrip().lower().startswith(b"<!doctype html>")


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize("part", ["input", "output"])
def test_a_web_address_is_refused_by_name(
    command: str, part: str, recipes: dict[str, Path], sentence: Sentence
) -> None:
    said = sentence(command, recipes[command], f"{part}.path=https://example.com/x.jsonl")
    assert "https://example.com/x.jsonl is a web address" in said


@pytest.mark.parametrize("command", ["show", "report"])
def test_what_is_no_run_is_said_to_be_none(command: str, tmp_path: Path, sentence: Sentence) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert "is not the output folder of a run" in sentence(command, tmp_path)
    assert "is a web address" in sentence(command, "http://example.com/run")


@pytest.mark.parametrize("command", ["run", "derive", "report"])
def test_an_output_that_cannot_be_written_is_named(
    command: str, recipes: dict[str, Path], scored: Path, tmp_path: Path, sentence: Sentence
) -> None:
    # Below a file there is no folder, and in /proc none can be made.
    for place in (tmp_path / "in.jsonl" / "x", Path("/proc/nothing/x")):
        if command == "report":
            said = sentence("report", scored, "-o", place / "page.html")
        else:
            said = sentence(command, recipes[command], f"output.path={place}")
        assert str(place.parent) in said
        assert "cannot be" in said or "is no folder" in said


@pytest.mark.parametrize("command", ["run", "derive", "plan"])
def test_a_store_that_is_gone_at_the_start_is_one_sentence(
    command: str, recipes: dict[str, Path], sentence: Sentence, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"AWS_ENDPOINT_URL": GONE, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "x"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    where = "input" if command == "plan" else "output"
    said = sentence(command, recipes[command], f"{where}.path=s3://gone/x")
    assert "could not be used for 0.1 s (limits.storage_wait_s)" in said


def test_the_hub_without_a_network_is_one_sentence(recipes: dict[str, Path]) -> None:
    # The hub's address is read when its package is loaded, so this is a process of its own.
    command = [sys.executable, "-m", "polar_ray", "plan", str(recipes["plan"]), "input.path=hf://datasets/a/b/c"]
    env = {"HF_ENDPOINT": GONE, "PATH": "/usr/bin", "HOME": str(recipes["plan"].parent)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)
    assert ended.returncode == 1
    assert "hf://datasets/a/b/c could not be used for 0.1 s" in _last_sentence(ended.stderr)


@pytest.mark.parametrize("package", ["httpx", "httpx2"])
def test_a_network_that_is_away_is_known_by_either_name_of_the_package(package: str) -> None:
    httpx = pytest.importorskip(package)
    assert is_away(httpx.ConnectError("no network"))
    assert not is_away(httpx.UnsupportedProtocol("what is that"))


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv, to be held to permissions")
@pytest.mark.parametrize("command", ["show", "report"])
def test_a_folder_that_may_not_be_read_is_one_sentence(command: str, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0)
    # Root reads what it likes unless these are taken away; for others there is nothing to take.
    dropped = "-dac_override,-dac_read_search"
    held = ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}"]
    probe = subprocess.run([*held, "true"], capture_output=True, check=False)
    ended = subprocess.run(
        [*(held if probe.returncode == 0 else []), sys.executable, "-m", "polar_ray", command, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    folder.chmod(0o700)
    assert ended.returncode == 1
    said = _last_sentence(ended.stderr)
    assert "Permission denied" in said
    assert str(folder) in said
