"""Secrets of a recipe: no output of any command holds them, and old records that do still compare."""

import html
import json
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import rows, write_jsonl

from polar_ray.cli import main
from polar_ray.data.storage import Storage
from polar_ray.errors import CheckpointError, PolarRayError, RecipeError, ScoringError, StorageError
from polar_ray.recipe.curate import CurateRecipe
from polar_ray.recipe.recipe import Recipe
from polar_ray.recipe.scorers import Custom
from polar_ray.recipe.secrets import hidden, secrets_in
from polar_ray.scorers.catalog import fingerprint_of, make_scorer
from polar_ray.scorers.fingerprint import changed_keys, same_scorers

CANARY = "hunter2-c4n4ry"
STORAGE_CANARY = "st0rage-c4n4ry"
Say = Callable[..., tuple[int, str]]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Say:
    """Runs a command in this process; returns its exit code and all that it printed, workers included."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["polar-ray", *map(str, arguments)])
        code: str | int | None = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        captured = capfd.readouterr()
        return int(code or 0), captured.out + captured.err

    return call


def scorer(**settings: Any) -> dict[str, Any]:
    return {"kind": "custom", "target": "faulty:Keyed", "settings": settings}


def written(folder: Path) -> str:
    """All that lies below a folder, as text; columns of Parquet are read, since they are compressed."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            found.append(path.read_bytes().decode("utf-8", "replace"))
            if path.suffix == ".parquet":
                found.append(str(pq.read_table(path).to_pylist()))
    return "\n".join(found)


@pytest.mark.usefixtures("embedded_ray")
def test_no_output_of_any_command_holds_a_secret(say: Say, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in" / "in.jsonl", [*rows(6), {"prompt": "no candidates"}])
    options = {"secret": STORAGE_CANARY}
    recipe = tmp_path / "recipe.yaml"
    out = tmp_path / "work" / "out"
    parts = {
        "input": {"path": str(tmp_path / "in"), "split_rows": 2},
        "scorer": scorer(key=CANARY, nested={"token": [CANARY + "-2"]}, says=True),
        "output": {"path": str(out)},
        "derive": {"pairs": {"pairs": {}}},
        "limits": {"max_errors": 1000},
    }
    recipe.write_text(yaml.safe_dump(parts))
    derive = tmp_path / "derive.yaml"
    derive.write_text(yaml.safe_dump({"best_of_n": {}, "run": {"path": str(out)}, "output": {"path": str(out) + "-d"}}))
    curate = tmp_path / "curate.yaml"
    curate.write_text(yaml.safe_dump({**parts, "output": {"path": str(tmp_path / "work" / "curated")}}))
    again = f"scorer.settings.key={CANARY}"
    told = [
        say("plan", recipe),
        say("run", recipe, "--show", "1"),
        say("show", out),
        say("report", out, "-o", tmp_path / "work" / "report.html"),
        say("derive", derive),
        say("retry", out),
        say("retry", out, again, f"scorer.settings.nested={{token: [{CANARY}-2]}}", "scorer.settings.says=true"),
        say("curate", curate),
        # What is refused.
        say("run", recipe, f"scorer.settings.key={CANARY}-3"),
        say("run", recipe, f"scorer.settings.fails={CANARY}", f"output.path={tmp_path}/work/fails"),
        say("run", recipe, f"scorer.settings.unknown={CANARY}"),
        say("run", recipe, f"input.storage_options={STORAGE_CANARY}"),
        say("run", recipe, f"output.storage_options=[{STORAGE_CANARY}]"),
        say("run", recipe, f"input.storage_optons={json.dumps(options)}"),
        say("run", recipe, f"input.storage_options.{STORAGE_CANARY}"),
        say("run", recipe, f"input.path.x={STORAGE_CANARY}"),
        say("run", recipe, "input.path=s3://bucket/x", f"input.storage_options={{secrt: {STORAGE_CANARY}}}"),
        say("plan", recipe, f"scorer.settings={CANARY}"),
        say("plan", recipe, f"scorer.settings=[{CANARY}]"),
    ]
    codes = [code for code, _ in told]
    assert codes[:5] == [0] * 5, told[codes.index(1)]
    assert codes[5] == 1
    assert "so not the values of key, nested, says in scorer.settings: give them anew" in told[5][1]
    assert codes[6:8] == [0, 0]
    assert codes[8:-2] == [1] * (len(codes) - 10)
    everything = "\n".join(text for _, text in told) + written(tmp_path / "work")
    assert "c4n4ry" not in everything
    assert "*** sha256:" in everything
    assert "the key is ***" in written(out / "scores")
    assert source.exists()


def test_a_scorer_gets_its_secrets_and_its_repr_does_not_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", CANARY)
    config = Custom.model_validate(scorer(key={"env": "A_KEY"}) | {"public": []})
    made: Any = make_scorer(config)
    assert made.key == CANARY
    assert CANARY not in repr(made.key)
    assert CANARY not in repr(Custom.model_validate(scorer(key=CANARY)))


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(RecipeError, match="environment variable NOT_SET_HERE, which is not set here"):
        make_scorer(Custom.model_validate(scorer(key={"env": "NOT_SET_HERE"})))


def test_what_is_public_is_shown_and_the_rest_is_told_apart_by_a_hash() -> None:
    recipe = Recipe.of(
        {
            "input": {"path": "in"},
            "output": {"path": "/out"},
            "scorer": scorer(key=CANARY, threshold=0.5, model={"env": "MODEL"}) | {"public": ["threshold"]},
        }
    )
    shown = yaml.safe_load(recipe.without_credentials().to_yaml())["scorer"]["settings"]
    assert shown["threshold"] == 0.5
    assert shown["model"] == {"env": "MODEL"}
    # sha256 of the JSON "hunter2-c4n4ry", quotes included.
    assert shown["key"] == "*** sha256:2db6f3ef35df"


def test_public_names_must_be_settings() -> None:
    with pytest.raises(RecipeError, match="public names 'nothing', which is none of the settings"):
        Recipe.of(
            {"input": {"path": "in"}, "output": {"path": "/out"}, "scorer": scorer(key="x") | {"public": ["nothing"]}}
        )


def test_fingerprints_that_hold_settings_as_they_are_compare_with_those_that_hold_hashes() -> None:
    config = Custom.model_validate(scorer(key=CANARY, says=False))
    now = fingerprint_of(config)
    assert CANARY not in str(now)
    # As earlier versions wrote it.
    earlier = {"target": now["target"], "code": now["code"], "settings": json.dumps({"key": CANARY, "says": False})}
    assert same_scorers({"": earlier}, {"": now})
    assert changed_keys(earlier | {"settings": json.dumps({"key": "other", "says": False})}, now) == ["setting:key"]
    assert changed_keys(earlier | {"settings": json.dumps({"key": CANARY})}, now) == ["setting:says"]


def test_a_value_that_yaml_takes_for_an_alias_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"scorer:\n  settings:\n    key: *{CANARY}\n")
    for kind in (Recipe, CurateRecipe):
        with pytest.raises(
            RecipeError, match="not valid YAML: found undefined alias '…' at line 3, column 10"
        ) as error:
            kind.load(str(path))
        assert CANARY not in str(error.value)


PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIB+DANB/gkq=hkiG9w\nc4n4ryAB+/12345678901=\n-----END PRIVATE KEY-----\n"
WRITTEN: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "repr": repr,
    "repr in a dict": lambda text: repr({"key": [text], "it's": '"'}),
    "repr of a KeyError of one": lambda text: repr(KeyError(repr({"key": text}))),
    "ascii": ascii,
    "JSON": json.dumps,
    "JSON in JSON": lambda text: json.dumps({"body": json.dumps({"key": text})}),
    "JSON with its letters": lambda text: json.dumps(text, ensure_ascii=False),
    "percent": quote,
    "percent, with slashes": lambda text: quote(text, safe=""),
    "percent, in lower case": lambda text: re.sub("%..", lambda code: code[0].lower(), quote(text)),
    "percent twice": lambda text: quote(quote(text)),
    "a form": quote_plus,
    "HTML": html.escape,
}


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize(
    "value",
    [CANARY, "c4n4ry's\\cr\"et", "c4n4ry/se+cret with space", "\tc4n4ry\\\\\n", "clé<&>😀c4n4ry", PEM],
    ids=["plain", "quotes", "URL", "white space", "letters", "PEM"],
)
def test_a_secret_is_hidden_however_a_message_writes_it(value: str, form: str) -> None:
    secrets = secrets_in({"nested": [{"key": value}]})
    message = hidden(f"before {WRITTEN[form](value)} after", secrets)
    assert "***" in message
    assert "c4n4ry" not in message
    assert (message.startswith("before "), message.endswith(" after")) == (True, True)


def test_a_line_of_a_key_and_a_number_are_hidden_and_what_is_too_short_is_not() -> None:
    secrets = secrets_in({"pem": PEM, "pin": 12345678, "short": "abc", "flag": True, "share": 0.5, "none": None})
    assert hidden("line 3: c4n4ryAB+/12345678901= is no base64", secrets) == "line 3: *** is no base64"
    assert hidden("pin 12345678, abc, True, 0.5, None", secrets) == "pin ***, abc, True, 0.5, None"


def test_hiding_takes_time_in_proportion_to_the_message() -> None:
    # Backtracking over these would take hours.
    secrets = secrets_in([r"a\\b\\\\c %d" * 20, "\\" * 50 + "c4n4ry"])
    for text in ("\\" * 20_000, "a" + "\\" * 20_000 + "b", "%25" * 20_000, "a\\b" * 5_000):
        assert hidden(text, secrets) == text


SAME = {RecipeError: RecipeError, CheckpointError: CheckpointError, PolarRayError: ScoringError}
"""Errors that a scorer may raise as it is made, and as what they come out; any other is the recipe's."""


@pytest.mark.parametrize("kind", [ValueError, KeyError, OSError, TypeError, *SAME])
def test_a_scorer_that_cannot_be_made_does_not_say_its_secrets(kind: type[Exception]) -> None:
    settings = {"error": kind.__name__, "key": CANARY + "'\n"}
    with pytest.raises(SAME.get(kind, RecipeError)) as refused:
        make_scorer(Custom(target="faulty:Unmade", settings=settings, public=["error"]))
    assert "***" in str(refused.value)
    assert "c4n4ry" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint_url": CANARY},
        {"endpoint_url": f"http://user:{CANARY}@127.0.0.1:1"},
        {"key": CANARY},
        {"token": {"x": CANARY}},
        {"key": CANARY, "secret": CANARY, "region": 7},
    ],
)
def test_a_storage_that_fails_does_not_say_its_options(options: dict[str, Any]) -> None:
    with pytest.raises(StorageError) as failed:
        Storage.of("s3://bucket/x", options, 0).read_bytes("s3://bucket/x")
    assert "c4n4ry" not in str(failed.value)
