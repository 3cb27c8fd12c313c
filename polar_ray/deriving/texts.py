"""Texts of a block, read when something asks for them."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rapidfuzz import fuzz, process

from polar_ray.data.arrays import flat, offsets
from polar_ray.data.group import GROUP_SCHEMA
from polar_ray.deriving.wanted import candidate_path

Read = Callable[[Sequence[str]], pa.Table]
"""Returns the columns (Parquet paths) of the block's rows."""


class Texts:
    """What people and models wrote in the groups of a block, and what is carried with it.

    Nothing is read before it is asked for. A candidate's text is the contents of its messages joined by newlines.
    """

    def __init__(self, read: Read) -> None:
        self._read = read

    @staticmethod
    def of(table: pa.Table) -> "Texts":
        """Returns the texts of a table in memory."""
        return Texts(lambda columns: table.select(dict.fromkeys(column.split(".")[0] for column in columns)))

    @cached_property
    def prompt(self) -> pa.ListArray:
        """``MESSAGES`` [G]."""
        return _plain(flat(self._read(["prompt"]).column("prompt")), GROUP_SCHEMA.field("prompt").type)

    @cached_property
    def references(self) -> pa.ListArray:
        """Lists of ``MESSAGES`` [G]."""
        return _plain(flat(self._read(["references"]).column("references")), GROUP_SCHEMA.field("references").type)

    @cached_property
    def messages(self) -> pa.ListArray:
        """``MESSAGES`` [C]."""
        return _plain(self._candidate_field("messages"), GROUP_SCHEMA.field("prompt").type)

    @cached_property
    def candidate_id(self) -> pa.StringArray:
        """string [C]."""
        return self._candidate_field("candidate_id")

    @cached_property
    def model(self) -> pa.StringArray:
        """string [C]."""
        return self._candidate_field("model")

    @cached_property
    def joined(self) -> pa.StringArray:
        """string [C]: the text of each candidate."""
        messages = self.messages
        contents = pa.ListArray.from_arrays(messages.offsets, messages.values.field("content"))
        return pc.binary_join(contents, "\n")

    @cached_property
    def characters(self) -> np.ndarray:
        """int64 [C]: Unicode characters of each candidate's text."""
        return np.asarray(pc.utf8_length(self.joined).to_numpy(zero_copy_only=False), np.int64)

    @cached_property
    def empty(self) -> np.ndarray:
        """bool [C]: no text but white space."""
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(self.joined)), 0)
        return np.asarray(blank.to_numpy(zero_copy_only=False), bool)

    @cached_property
    def codes(self) -> np.ndarray:
        """int64 [C]: equal numbers for equal texts (white space at both ends apart)."""
        encoded = pc.utf8_trim_whitespace(self.joined).dictionary_encode()
        return np.asarray(encoded.indices.to_numpy(zero_copy_only=False), np.int64)

    def strings(self, candidates: np.ndarray) -> list[str]:
        """Returns the texts of some candidates as Python strings."""
        texts: list[str] = self.joined.take(pa.array(candidates)).to_pylist()
        return texts

    def similarity(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Returns the similarity of pairs of candidates: float64 [P] in [0, 1]; see ``candidates.max_similarity``."""
        distances = process.cpdist(
            self.strings(first), self.strings(second), scorer=fuzz.ratio, dtype=np.float64, workers=1
        )
        return np.asarray(distances) / 100

    def _candidate_field(self, name: str) -> pa.Array:
        candidates = flat(self._read([candidate_path(name)]).column("candidates"))
        return candidates.flatten().field(name)


def length_ratio(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the longer over the shorter: float64; infinite if only one is 0, and 1 if both are."""
    longer, shorter = np.maximum(first, second), np.minimum(first, second)
    return np.where(shorter > 0, longer / np.maximum(shorter, 1), np.where(longer > 0, np.inf, 1.0))


def _plain(lists: pa.ListArray, type_: pa.DataType) -> pa.ListArray:
    """Returns lists whose offsets start at 0 and whose fields are named as in ``GROUP_SCHEMA``."""
    starts = offsets(pc.fill_null(lists.value_lengths(), 0).to_numpy(zero_copy_only=False))
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), lists.flatten()).cast(type_)
