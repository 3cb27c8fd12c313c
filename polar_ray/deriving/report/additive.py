"""Sums over parts of a score table whose every field adds up."""

from dataclasses import dataclass

from typing_extensions import Self


@dataclass(frozen=True)
class Additive:
    """``+`` adds two of a kind field by field: numbers, arrays, and what is additive itself."""

    def __add__(self, other: Self) -> Self:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return type(self)(*(one + two for one, two in pairs))
