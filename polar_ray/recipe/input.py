"""What is read: paths, format, layout and column names."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from polar_ray.recipe.base import Part, check_scorer_name
from polar_ray.recipe.paths import checked

Layout = Literal["groups", "candidates", "scattered"]


class Columns(Part):
    """Names of the input's columns.

    In the ``groups`` layout ``candidates`` is a list column. In the two row-per-candidate layouts the fields
    of a candidate are columns of their own, named by ``CandidateFields``.
    """

    prompt_id: str = "prompt_id"
    prompt: str = "prompt"
    reference: str = "reference"
    """One reference: a string, a message list, or null."""
    references: str = "references"
    """Several references: a list of strings or of message lists. A row may have either column."""
    candidates: str = "candidates"
    labels: str | None = "labels"
    """Judgements of the candidates, in the ``groups`` layout: a list of objects with the candidate's id, ``kind``,
    ``correct``, ``preference`` and ``score``. Checked for this shape and carried in ``extra``; with ``null`` a
    column of this name is carried unread."""


class CandidateFields(Part):
    """Names of a candidate's fields, in the list column or as columns of a row per candidate."""

    candidate_id: str = "candidate_id"
    messages: str = "messages"
    """The generation itself: a string or a message list."""
    model: str = "model"


class Input(Part):
    """Where the generations are and how they are laid out.

    Attributes:
        path: A file, folder or glob, or a list of them; local or ``s3://``, ``gs://``, ``hf://``, ``az://``.
        format: ``auto`` goes by the file name: ``.parquet``, ``.jsonl`` or ``.json``, with ``.gz`` or ``.zst``.
            ``scores``: the path is the output folder of a finished run, whose score table is taken over, and the
            recipe's scorers are added to it.
        scorer_name: With ``scores``: a name for the table's only scorer, where it has none.
        layout: ``groups``: a row per prompt with a list of candidates. ``candidates``: a row per candidate,
            the rows of a prompt next to each other in one file. ``scattered``: a row per candidate, anywhere;
            this takes a shuffle.
        split_rows: Input rows in one split, the unit of work, retry and commit.
        split_bytes: Upper bound of a split's size in bytes of decompressed JSONL; a row is never cut.
        max_line_bytes: Most bytes of a line of JSONL. A longer one becomes a dead letter without being held in memory.
        storage_options: Passed to the filesystem: ``endpoint_url``, ``key``, ``secret``, ``region``, ``anon``.
    """

    path: str | list[str]
    format: Literal["auto", "parquet", "jsonl", "scores"] = "auto"
    scorer_name: str | None = None
    layout: Layout = "groups"
    columns: Columns = Columns()
    candidate_fields: CandidateFields = CandidateFields()
    split_rows: int = Field(default=256, ge=1)
    split_bytes: int = Field(default=16 * 2**20, ge=1)
    max_line_bytes: int = Field(default=64 * 2**20, ge=1)
    storage_options: dict[str, Any] = Field(default={}, repr=False)

    @field_validator("path")
    @classmethod
    def _no_slips(cls, path: str | list[str]) -> str | list[str]:
        return checked(path) if isinstance(path, str) else [checked(each) for each in path]

    @model_validator(mode="after")
    def _score_table(self) -> "Input":
        if self.format != "scores":
            if self.scorer_name is not None:
                raise ValueError("scorer_name is for the scorer of a score table: set format: scores")
            return self
        if not isinstance(self.path, str):
            raise ValueError("with format: scores path is the output folder of one run")
        if self.layout != "groups" or self.columns != Columns() or self.candidate_fields != CandidateFields():
            raise ValueError("a score table has a layout and names of its own: leave layout and columns out")
        if self.scorer_name is not None:
            check_scorer_name(self.scorer_name)
        return self
