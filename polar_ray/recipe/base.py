"""The base of every part of a recipe."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of a recipe: immutable, and a key it does not know is an error; errors do not repeat values."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), hide_input_in_errors=True)


def check_scorer_name(name: str) -> None:
    """Raises ValueError for a name that columns cannot carry."""
    if not name.isidentifier() or name != name.lower():
        raise ValueError(f"scorer name {name!r} must be lower case letters, digits and _")
