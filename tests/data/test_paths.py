"""Paths with a slip in them are said to be wrong, before anything is read or written."""

import pytest

from polar_ray.data.storage import Storage
from polar_ray.errors import RecipeError, StorageError
from polar_ray.recipe.paths import mistake_in
from polar_ray.recipe.recipe import Recipe

SLIPS = {
    "": "the path is empty",
    "  ": "the path is empty",
    " out": "begins or ends with white space",
    "out\n": "control character",
    "a\x00b": "control character",
    "a\udcffb": "is not UTF-8",
    "s3:/bucket/x": "write s3://bucket/x, or ./s3:/bucket/x",
    "s3:bucket/x": "write s3://bucket/x",
    "s3//bucket/x": "write s3://bucket/x",
    "gs:/bucket": "write gs://bucket",
    "hf:datasets/x": "write hf://datasets/x",
    "file:/data": "write file:///data",
    "S3://bucket/x": "write s3://bucket/x",
    "Gs:/bucket": "write gs://bucket",
    "s3://": "names no bucket",
    "s3:///bucket/x": "names no bucket",
    "http://host/x.jsonl": "is a web address",
    "https://host/x.jsonl": "is a web address",
}


@pytest.mark.parametrize("path", SLIPS, ids=ascii)
def test_a_slip_is_said_wherever_a_path_is_taken(path: str) -> None:
    said = SLIPS[path]
    with pytest.raises(StorageError, match=said):
        Storage.of(path)
    for key, other in (("input", "output"), ("output", "input")):
        data = {key: {"path": path}, other: {"path": "fine"}, "scorer": {"kind": "length"}}
        with pytest.raises(RecipeError, match=said):
            Recipe.of(data)


@pytest.mark.parametrize(
    "path",
    [
        "out",
        "/out",
        "./s3:/x",
        "~/x",
        "C:/x",
        "s3",
        "s3/x",
        "gs.jsonl",
        "a b",
        "Größe",
        "=",
        "s3://bucket",
        "file:///x",
    ],
)
def test_what_is_no_slip_is_taken_as_it_is(path: str) -> None:
    assert mistake_in(path) is None


def test_an_empty_variable_on_the_command_line_is_not_the_working_folder() -> None:
    data = {"input": {"path": "in"}, "output": {"path": "out"}, "scorer": {"kind": "length"}}
    for override in ("input.path=", "output.path=", "input.path=[a, '']"):
        with pytest.raises(RecipeError, match="the path is empty"):
            Recipe.of(data, [override])
