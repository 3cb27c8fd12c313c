"""The commands: what they print, what they leave, and that every mistake is one sentence with a way on."""

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import rows, write_jsonl
from processes import COMMAND
from runs import TESTS, TINY_POLAR, files_below, score_table

import polar_ray
from polar_ray.cli import main
from polar_ray.deriving.derived_folder import DerivedFolder
from polar_ray.errors import OutputError

ROOT = TESTS.parent
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process, where Ray may be running already; returns exit code, output and errors."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["polar-ray", *map(str, arguments)])
        code: str | int | None = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return int(code or 0), captured.out, captured.err

    return call


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "in.jsonl", rows(5))
    path = tmp_path / "recipe.yaml"
    parts = {
        "input": {"path": str(tmp_path / "in.jsonl"), "split_rows": 2},
        "scorer": {"kind": "length"},
        "output": {"path": str(tmp_path / "out")},
    }
    path.write_text(yaml.safe_dump(parts))
    return path


def one_sentence(error: str, kind: str) -> str:
    """Checks that an error is one line of the right kind, and returns what it says."""
    match = re.fullmatch(rf"polar-ray: {kind}: (.*)\n", error)
    assert match is not None, error
    assert "Traceback" not in error
    return match[1]


def test_the_demo_scores_the_shipped_generations_in_a_process_of_its_own(tmp_path: Path) -> None:
    arguments = ["run", "pipelines/demo.yaml", f"output.path={tmp_path / 'out'}", "--fresh", "--show", "2"]
    result = subprocess.run(
        [sys.executable, "-m", "polar_ray", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )
    assert result.returncode == 0, result.stderr
    assert "40 groups, 276 candidates from 40 rows" in result.stdout
    assert "conservation: 40 rows read = 40 in groups + 0 dead letters + 0 drops" in result.stdout
    assert f"score table: {tmp_path / 'out'}/scores/part-*.parquet" in result.stdout
    assert result.stdout.count("reference") >= 2
    assert score_table(tmp_path / "out").num_rows == 40
    for noise in ("Traceback", "WARNING", "Warning", "UserWarning", "ray::"):
        assert noise not in result.stderr


@pytest.mark.usefixtures("embedded_ray")
def test_running_twice_resumes_and_then_has_nothing_to_do(command: Run, recipe: Path, tmp_path: Path) -> None:
    code, output, errors = command("run", recipe, "--show", "1")
    assert code == 0, errors
    assert "5 groups, 15 candidates from 5 rows" in output
    assert "status: ok 15" in output
    assert "candidates/s while scoring" in output
    code, output, errors = command("run", recipe)
    assert code == 0
    assert "holds this run, finished; nothing to do" in errors
    assert "5 groups, 15 candidates from 5 rows\n" in output
    for figure in (" s (", "waited", "busy"):
        assert figure not in output
    code, _, errors = command("run", recipe, "input.split_rows=3")
    assert code == 1
    assert "input.split_rows was 2 and is 3; use --fresh" in one_sentence(errors, "RecipeChanged")
    code, output, errors = command("show", tmp_path / "out", "-n", "2")
    assert (code, errors) == (0, "")
    assert "5 groups, 15 candidates" in output


@pytest.mark.usefixtures("embedded_ray")
def test_a_run_tells_how_long_its_model_waited_and_what_verification_found(
    command: Run, recipe: Path, tmp_path: Path
) -> None:
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), "scorer": TINY_POLAR}))
    code, output, errors = command("run", recipe, "--verify", "1")
    assert code == 0, errors
    assert re.search(r"^the model waited \d+\.\d% of its time for input$", output, re.MULTILINE)
    assert re.search(
        r"^busy: read [\d.]+ s \(idle \d+%\), encode [\d.]+ s .*, score [\d.]+ s, verify", output, re.MULTILINE
    )
    found = "verification: 15 candidates of 5 groups scored again plainly, max |Δ|"
    assert found in output
    _, shown, _ = command("show", tmp_path / "out")
    assert found in shown


@pytest.mark.usefixtures("embedded_ray")
def test_a_verification_that_failed_is_shown_as_such(command: Run, recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), "scorer": TINY_POLAR}))
    command("run", recipe, "--verify", "1")
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["verification"][""] |= {"beyond_tolerance": 2, "max_delta": 0.5, "worst_prompt_id": "p0003"}
    path.write_text(json.dumps(manifest))
    _, shown, _ = command("show", tmp_path / "out")
    text = " ".join(shown.split())
    assert "VERIFICATION FAILED. verification: 15 candidates of 5 groups scored again plainly, max |Δ| 0.5" in text
    assert "2 candidates are beyond the tolerance, worst in the group with prompt_id 'p0003'" in text
    code, said, _ = command("run", recipe, "--verify", "1")
    assert code == 1
    assert "VERIFICATION FAILED" in said


def test_a_share_beyond_all_is_refused(command: Run, recipe: Path) -> None:
    code, _, errors = command("run", recipe, "--verify", "2")
    assert code == 1
    assert "verify: input should be less than or equal to 1" in one_sentence(errors, "RecipeError")


@pytest.mark.usefixtures("embedded_ray")
def test_candidates_are_shown_in_ranked_order(command: Run, recipe: Path) -> None:
    _, output, _ = command("run", recipe, "--show", "1")
    shown = re.findall(r"│ +(\d) │ +(\d+\.\d+) │ ", output)
    assert [rank for rank, _ in shown] == sorted(rank for rank, _ in shown)
    rewards = [float(reward) for _, reward in shown]
    assert len(rewards) == 3
    assert rewards == sorted(rewards, reverse=True)


@pytest.mark.usefixtures("embedded_ray")
def test_a_run_that_cannot_come_to_anything_ends_with_its_cause(command: Run, recipe: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{**row, "candidates": []} for row in rows(4)])
    code, output, errors = command("run", recipe)
    assert (code, output) == (1, "")
    last = errors.splitlines(keepends=True)[-1]
    assert "4 of the 4 rows read became dead letters" in one_sentence(last, "TooManyDeadLetters")
    assert not (tmp_path / "out" / "manifest.json").exists()
    code, _, errors = command("show", tmp_path / "out")
    assert code == 1
    assert "has not finished" in one_sentence(errors, "NotFinished")


@pytest.mark.usefixtures("embedded_ray")
@pytest.mark.parametrize(
    ("scorer", "kind", "sentence"),
    [
        ("{kind: polar, model: /nowhere/POLAR-7B}", "CheckpointError", "/nowhere/POLAR-7B"),
        ("{kind: custom, target: 'nowhere:Mine'}", "RecipeError", "cannot be imported"),
        ("{kind: custom, target: 'faulty:by_length'}", "RecipeError", "is not a subclass of"),
    ],
)
def test_a_scorer_that_is_not_there_stops_the_run_before_anything_is_written(
    command: Run, recipe: Path, tmp_path: Path, scorer: str, kind: str, sentence: str
) -> None:
    code, output, errors = command("run", recipe, f"scorer={scorer}")
    assert (code, output) == (1, "")
    assert sentence in one_sentence(errors, kind)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("input.pth=x", "unknown key input.pth; did you mean input.path?"),
        ("compute.actors.maxx=2", "unknown key compute.actors.maxx; did you mean compute.actors.max?"),
        ("scorer.kind=lenght", "scorer.kind 'lenght' is not a scorer; did you mean length?"),
        ("compute.actors.max=many", "compute.actors.max: input should be a valid integer"),
        ("verbose", "the override 'verbose' must look like key.key=value"),
    ],
)
@pytest.mark.parametrize("name", ["run", "plan"])
def test_a_wrong_override_is_one_sentence_with_the_nearest_right_key(
    command: Run, recipe: Path, name: str, override: str, sentence: str
) -> None:
    code, output, errors = command(name, recipe, override)
    assert (code, output) == (1, "")
    assert sentence in one_sentence(errors, "RecipeError")


def test_a_recipe_that_is_not_there_is_one_sentence(command: Run, tmp_path: Path) -> None:
    code, _, errors = command("run", tmp_path / "nowhere.yaml")
    assert code == 1
    assert "nowhere.yaml: No such file" in one_sentence(errors, "RecipeError")


def test_an_input_that_is_not_there_is_one_sentence(command: Run, recipe: Path, tmp_path: Path) -> None:
    for name in ("run", "plan"):
        code, _, errors = command(name, recipe, f"input.path={tmp_path}/nowhere/*.parquet")
        assert code == 1
        assert "nowhere" in one_sentence(errors, "NoFolder")
    assert not (tmp_path / "out").exists()


def test_a_plan_refuses_what_a_run_would_refuse(
    command: Run, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scorer_here.py").write_text(
        "from polar_ray.scorers.text_scorer import TextScorer\nclass Mine(TextScorer): pass\n"
    )
    for target, said in (("no_such_module:Mine", "No module named"), ("scorer_here:Other", "has no attribute 'Other'")):
        code, output, errors = command("plan", recipe, "scorer.kind=custom", f"scorer.target={target}")
        assert (code, output) == (1, "")
        assert f"scorer.target {target} cannot be imported: " in one_sentence(errors, "RecipeError")
        assert said in errors
    # Modules in the working folder are found, as the workers find them.
    assert command("plan", recipe, "scorer.kind=custom", "scorer.target=scorer_here:Mine")[0] == 0
    for name in ("empty", "blank"):
        (tmp_path / f"{name}.jsonl").write_text("" if name == "empty" else "\n \n")
        code, output, errors = command("plan", recipe, f"input.path={tmp_path}/{name}.jsonl")
        assert (code, output) == (1, "")
        assert f"{name}.jsonl has no rows, so there is nothing to score." in one_sentence(errors, "InputError")
        code, output, _ = command("plan", recipe, f"input.path={tmp_path}/{name}.jsonl", "limits.allow_empty=true")
        assert (code, "no candidates in the sample" in output) == (0, True)


def test_a_dataset_is_not_derived_into_a_run(tmp_path: Path) -> None:
    (tmp_path / "out" / "_run").mkdir(parents=True)
    (tmp_path / "out" / "_run" / "run.json").write_text("{}")
    folder = DerivedFolder(str(tmp_path / "out"))
    with pytest.raises(OutputError, match=r"out holds a run, beside which no dataset is derived; give output\.path"):
        folder.establish({"recipe": {"seed": 0}, "parent": "0", "versions": {"polar-ray": "0"}}, fresh=True)


def test_a_wrong_column_name_is_said_before_anything_is_written(command: Run, recipe: Path, tmp_path: Path) -> None:
    for name, *more in (["plan"], ["run"], ["run", "--fresh"]):
        code, output, errors = command(name, recipe, "input.columns.candidates=outputs", *more)
        assert (code, output) == (1, "")
        assert one_sentence(errors, "InputError") == (
            f"{tmp_path}/in.jsonl: no column `outputs`; "
            "the columns are prompt_id, prompt, reference, candidates, lang; set input.columns.candidates=candidates"
        )
    assert files_below(tmp_path) == {"in.jsonl", "recipe.yaml"}


def test_what_is_wrong_with_a_recipe_or_its_input_is_said_without_ray(recipe: Path, tmp_path: Path) -> None:
    for arguments in (["nowhere.yaml"], [recipe, "input.columns.candidates=outputs"]):
        program = [sys.executable, "-c", COMMAND, "run", *map(str, arguments)]
        done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 1
        assert done.stdout.split() == ["LOADED"], done.stderr


def test_a_folder_that_is_no_run_cannot_be_shown(command: Run, tmp_path: Path) -> None:
    (tmp_path / "dataset" / "_derive").mkdir(parents=True)
    (tmp_path / "dataset" / "_derive" / "derive.json").write_text("{}")
    (tmp_path / "dataset" / "manifest.json").write_text('{"task": "pairs"}')
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("mine")
    said = {
        "other": "is not the output folder of a run: it has no manifest.json; give the output.path of a run",
        "other/README.md": "is a file, not the output folder of a run; give the output.path of a run",
        "nothing": "is not there; give the output.path of a run",
        "dataset": "is a dataset that was derived from a run, not a run; give the folder of the run",
    }
    page = tmp_path / "page.html"
    for name, sentence in said.items():
        for arguments in (["show"], ["retry"], ["report", "-o", page]):
            code, _, errors = command(arguments[0], tmp_path / name, *arguments[1:])
            assert code == 1
            assert f"{tmp_path / name} {sentence}" in one_sentence(errors, "NotARun")
    assert not page.exists()


def test_a_plan_shows_recipe_input_sample_and_estimate_and_writes_nothing(
    command: Run, recipe: Path, tmp_path: Path
) -> None:
    code, output, errors = command("plan", recipe, "input.split_rows=3")
    assert (code, errors) == (0, "")
    assert "split_rows: 3" in output
    assert f"  {tmp_path / 'in.jsonl'}  " in output
    assert "sample: 3 rows → 3 groups, 9 candidates, 0 dead letters" in output
    assert "candidates (the sample is" in output
    assert output.rstrip().endswith("nothing was written")
    assert files_below(tmp_path) == {"in.jsonl", "recipe.yaml"}


def test_a_plan_of_which_nothing_would_come_ends_badly_and_says_why(command: Run, recipe: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in.jsonl", [{**row, "candidates": [["x"]]} for row in rows(1)])
    code, output, errors = command("plan", recipe)
    said = f"row 0 of {tmp_path / 'in.jsonl'}: candidates[0] is a list, not an object or a string"
    assert f"  dead letter candidate_type: 1, such as {said}\n" in output
    assert (code, output.rstrip().endswith("nothing was written")) == (1, True)
    assert said in one_sentence(errors, "TooManyDeadLetters")


@pytest.mark.usefixtures("embedded_ray")
def test_candidates_that_stand_apart_are_told_of_with_the_result(command: Run, recipe: Path, tmp_path: Path) -> None:
    lines = [{**row, "candidates": None, **candidate} for row in rows(3) for candidate in row["candidates"]]
    write_jsonl(
        tmp_path / "in.jsonl", [{k: v for k, v in row.items() if k != "candidates"} for row in lines[:7] + lines[:1]]
    )
    code, output, errors = command("run", recipe, "input.layout=candidates")
    assert code == 0, errors
    assert "dead letters: duplicate_prompt_id 1" in output
    assert "set input.layout=scattered, as the rows of a prompt are not all next to each other" in output


def test_long_paths_and_those_that_look_like_markup_are_printed_as_they_are(
    command: Run, recipe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / ("long-" * 30) / "[bold]:smile:"
    write_jsonl(folder / "in.jsonl", rows(1))
    code, output, errors = command("plan", recipe, f"input.path={folder}/in.jsonl".replace("[bold]", "[[]bold]"))
    assert code == 0, errors
    assert f"  {folder}/in.jsonl  " in output
    assert "[[]bold]:smile:/in.jsonl" in output


HOSTILE = "\x1b]0;owned\x07\x1b[31m\x9b2J\u202e"


@pytest.mark.usefixtures("embedded_ray")
def test_no_text_of_the_input_commands_the_terminal(command: Run, recipe: Path, tmp_path: Path) -> None:
    # Names with controls are refused; one with a bidi override is a name.
    folder = tmp_path / "in owned\u202e"
    (row,) = rows(1)
    hostile = {**row, "prompt_id": HOSTILE, "prompt": HOSTILE, "candidates": [HOSTILE, f"two{HOSTILE}"]}
    write_jsonl(folder / "in.jsonl", [hostile, {"prompt": HOSTILE}])
    path = f"input.path={tmp_path}/in*/*.jsonl"
    said = [
        command("plan", recipe, path),
        command("plan", recipe, path, f"scorer={json.dumps(TINY_POLAR)}"),
        command("run", recipe, path, "--show", "1"),
        command("show", tmp_path / "out"),
        command("plan", recipe, f"input.path={json.dumps(str(folder / HOSTILE))}"),
        command("show", tmp_path / HOSTILE),
        command("derive", tmp_path / HOSTILE),
    ]
    assert [code for code, _, _ in said] == [0, 0, 0, 0, 1, 1, 1]
    for _, output, errors in said:
        assert "owned" in output + errors
        assert not set(HOSTILE) & set("\x1b\x07\x9b\u202e") & set(output + errors)


def test_a_plan_shows_the_first_candidate_as_text_and_ids(command: Run, recipe: Path) -> None:
    model = f"scorer={{kind: polar, model: {TINY_POLAR['model']}}}"
    code, output, errors = command("plan", recipe, model)
    assert code == 0, errors
    assert "first encoded candidate" in output
    assert "<|reward|>question 0" in output
    assert re.search(r"\d+ ids: \[1, ", output)


def test_env_names_versions_and_devices(command: Run) -> None:
    code, output, errors = command("env")
    assert (code, errors) == (0, "")
    found = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert found["polar-ray"] == polar_ray.__version__
    assert {"python", "platform", "cpu", "cuda", "ray", "torch", "transformers", "pyarrow"} <= set(found)


def test_env_says_what_a_killed_driver_has_left(command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("polar_ray.running.embedded._parents", lambda: [str(tmp_path)])
    for name in ("polar-ray-left", "polar-ray-used", "polar-ray-starting", "another"):
        (tmp_path / name).mkdir()
        if name != "polar-ray-starting":
            (tmp_path / name / "driver.lock").touch()
    output = (tmp_path / "polar-ray-left" / "worker.out").open("w")
    with output, (tmp_path / "polar-ray-used" / "driver.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(["sleep", "600"], stdout=output) as process:
            code, said, errors = command("env")
            process.kill()
    assert (code, errors) == (0, "")
    left = [line.split(maxsplit=1) for line in said.splitlines() if str(tmp_path) in line]
    assert [name for name, _ in left] == ["leftover-1"]
    assert left[0][1].startswith(f"{tmp_path}/polar-ray-left with 1 process, of a driver that was killed; the next run")
    assert command("env")[1].count("with no process, of a driver") == 2


def test_help_names_every_command(command: Run) -> None:
    code, output, _ = command("--help")
    assert code == 0
    for name in ("run", "plan", "show", "retry", "derive", "curate", "env"):
        assert re.search(rf"^ *{name} ", output, re.MULTILINE)


def test_the_version_is_printed(command: Run) -> None:
    assert command("--version") == (0, f"{polar_ray.__version__}\n", "")


@pytest.mark.usefixtures("embedded_ray")
def test_a_finished_run_with_errors_beyond_the_limit_ends_with_exit_code_1(command: Run, tmp_path: Path) -> None:
    data = rows(5)
    data[2]["prompt"][0]["content"] = "a bad question"
    path = tmp_path / "recipe.yaml"
    parts = {
        "input": {"path": str(write_jsonl(tmp_path / "in.jsonl", data))},
        "scorer": {"kind": "custom", "target": "faulty:Raises"},
        "output": {"path": str(tmp_path / "out")},
    }
    path.write_text(yaml.safe_dump(parts))
    code, _, error = command("run", path)
    assert code == 1
    assert error.splitlines()[-1].startswith(
        "TOO MANY ERRORS. 3 of 15 candidates have errors, more than limits.max_errors=0.05 allows; the score table is"
    )
    assert score_table(tmp_path / "out").num_rows == 5
    # The run is finished; only what one accepts is another.
    assert command("run", path, "limits.max_errors=0.2")[0] == 0
    code, _, error = command("retry", tmp_path / "out")
    assert code == 1
    assert "TOO MANY ERRORS. 3 of 15" in error


def test_wrong_usage_has_its_own_exit_code(command: Run, recipe: Path) -> None:
    assert command("score", recipe)[0] == 2
    assert command("run")[0] == 2
    assert command("run", recipe, "--resume")[0] == 2
