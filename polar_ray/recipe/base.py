"""The base of every part of a recipe."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of a recipe: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
