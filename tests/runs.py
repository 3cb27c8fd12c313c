"""Recipes for tests, and plain readings of what a run leaves: with pyarrow alone, not with the code under test."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.recipe.recipe import Recipe
from polar_ray.running.folder import Commit
from polar_ray.running.progress import Silent

TESTS = Path(__file__).parent
TINY_POLAR = {
    "kind": "polar",
    "model": str(TESTS / "golden" / "polar" / "polar_tiny_a"),
    "dtype": "float32",
    "device": "cpu",
    "self_check": "numeric",
}
"""A random checkpoint of POLAR's layout, whose order of two answers means nothing."""
PLACES = ["input_file", "input_row"]
"""Columns of the score table that say where a group was read."""


class Listening(Silent):
    """Remembers what it is told of how things go."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def recipe(path: Path | str | list[str], output: Path | str, *overrides: str, **parts: Any) -> Recipe:
    """Returns a recipe that scores by length unless ``parts`` has ``scorer`` or ``scorers``."""
    scorer = {} if parts.keys() & {"scorer", "scorers"} else {"scorer": {"kind": "length"}}
    where = path if isinstance(path, list) else str(path)
    data = {"input": {"path": where}, "output": {"path": str(output)}, **scorer, **parts}
    return Recipe.of(data, list(overrides))


def part_files(output: Path) -> dict[str, bytes]:
    """Returns the bytes of each part of the score table, by the part's name."""
    return {path.name: path.read_bytes() for path in sorted((output / "scores").iterdir())}


def score_table(output: Path) -> pa.Table:
    """Returns the score table: its parts in the order of their names."""
    return pa.concat_tables([pq.read_table(path) for path in sorted((output / "scores").iterdir())])


def dead_letters(output: Path) -> list[dict[str, Any]]:
    """Returns all dead letters, in the order of the parts' names."""
    return [
        letter for path in sorted((output / "dead_letters").glob("*")) for letter in pq.read_table(path).to_pylist()
    ]


def files_below(folder: Path) -> set[str]:
    """Returns the relative paths of all files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def commit(**changes: Any) -> Commit:
    """Returns the record of a split of ten rows: seven groups of two candidates, two dead letters, a blank line."""
    fields: dict[str, Any] = {
        "split_id": "00000-00000",
        "file": "f",
        "file_index": 0,
        "split_index": 0,
        "last": False,
        "rows": 10,
        "rows_in_groups": 7,
        "groups": 7,
        "candidates": 14,
        "dead_letters": {"invalid_json": 2},
        "drops": {"blank_line": 1},
        "statuses": {"": {"ok": 13, "error": 1}},
        "errors": {"": "ValueError: no number"},
        "tokens": {"": 100},
        "seconds": {"read": 0.5},
        "input_bytes": 1000,
        "part_bytes": 300,
    }
    return Commit(**{**fields, **changes})
