"""Turns a validation error into one sentence with the nearest right key."""

import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from rapidfuzz import process


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Returns the first problem of ``error`` in one sentence, and how many more there are."""
    problems = error.errors()
    # An unknown key is the likeliest cause of the others (a typing error leaves the right key missing).
    problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
    problem = problems[0]
    location = [str(part) for part in problem["loc"]]
    where = ".".join(_walk(model, location)[0])
    if problem["type"] == "extra_forbidden":
        options = _walk(model, location[:-1])[1]
        known = sorted({key for option in options if _is_model(option) for key in option.model_fields})
        nearest = process.extractOne(location[-1], known, score_cutoff=50)
        beside = where.removesuffix(location[-1])
        hint = f"did you mean {beside}{nearest[0]}?" if nearest else f"known keys: {', '.join(known)}"
        sentence = f"unknown key {where}; {hint}"
    elif problem["type"] == "missing":
        sentence = f"{where} is missing"
    elif problem["type"] == "value_error":
        sentence = f"{where + ': ' if where else ''}{problem['ctx']['error']}"
    elif problem["type"] == "union_tag_invalid":
        tag = problem["ctx"]["tag"]
        tags = [tag.strip("' ") for tag in problem["ctx"]["expected_tags"].split(",")]
        nearest = process.extractOne(tag, tags, score_cutoff=50)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known kinds: {', '.join(tags)}"
        noun = "a scorer" if where.startswith("scorer") else "a known kind"
        sentence = f"{where}.kind {tag!r} is not {noun}; {hint}"
    else:
        message = problem["msg"][0].lower() + problem["msg"][1:]
        told = "" if _is_secret(location) else f", but it is {problem['input']!r:.200}"
        sentence = f"{where}: {message}{told}"
    more = len(problems) - 1
    return sentence + (f" (and {more} more)" if more else "")


def takes_null(model: type[BaseModel], location: list[str]) -> bool:
    """Whether null is a value at a location, or there is no such location."""
    options = _walk(model, location)[1]
    return not options or type(None) in options or Any in options


def _is_secret(location: list[str]) -> bool:
    """Whether what stands there, or below, may be a secret: a password where its mapping should be is one, too."""
    return not {"storage_options", "settings"}.isdisjoint(location)


def _walk(model: type[BaseModel], location: list[str]) -> tuple[list[str], list[Any]]:
    """Follows a location; returns it without the tags of unions (scorer.polar.dtype -> scorer.dtype), and the
    types that are possible there."""
    path: list[str] = []
    options: list[Any] = [model]
    for part in location:
        tagged = [option for option in options if _is_model(option) and _kind(option) == part]
        if tagged and len(options) > 1:
            options = tagged
            continue
        path.append(part)
        options = [below for option in options for below in _below(option, part)]
    return path, options


def _kind(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return None if field is None else str(field.default)


def _below(annotation: Any, part: str) -> list[Any]:
    if _is_model(annotation):
        field = annotation.model_fields.get(part)
        return [] if field is None else _alternatives(field.annotation)
    if get_origin(annotation) in (dict, list):
        return _alternatives(get_args(annotation)[-1])
    return []


def _alternatives(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [below for option in get_args(annotation) for below in _alternatives(option)]
    return [annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
