"""Recipes for tests, and plain readings of what a run leaves: with pyarrow alone, not with the code under test."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.recipe.recipe import Recipe

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
    return [letter for path in sorted((output / "dead_letters").glob("*")) for letter in pq.read_table(path).to_pylist()]


def files_below(folder: Path) -> set[str]:
    """Returns the relative paths of all files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
