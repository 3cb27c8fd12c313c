"""The score tables that are derived from: one that the candidates come from, and runs whose rewards stand beside it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from polar_ray.data.scores import open_scores, parts_of, renamed, scorer_columns, table_folder
from polar_ray.data.storage import FileInfo, Storage
from polar_ray.errors import RecipeError
from polar_ray.recipe.run import STORAGE_WAIT_S
from polar_ray.recipe.selections import JoinedTable, ScoreTable


@dataclass(frozen=True)
class Table:
    """One score table.

    Attributes:
        name: Of a joined run; empty for the first.
        storage: The run's folder.
        columns: Columns of scores: the name among all tables, and the one in its files.
    """

    name: str
    storage: Storage
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> list[FileInfo]:
        """The files, in order."""
        return parts_of(self.storage)


@dataclass(frozen=True)
class Tables:
    """All score tables of a recipe.

    Attributes:
        schema: The columns of the first, and the scores of the others, by their names among all tables.
        first: What the candidates come from.
        joined: The others.
    """

    schema: pa.Schema
    first: Table
    joined: tuple[Table, ...]


def open_tables(config: ScoreTable, wait_s: float = STORAGE_WAIT_S) -> Tables:
    """Finds the score tables of a recipe and gives each column of scores a name of its own.

    Args:
        config: Where they are.
        wait_s: Seconds in which a storage that is away may come back.

    Raises:
        NotARun: There is no run at a path.
        NotFinished: A run has not finished.
        RecipeError: A scorer has no name where it needs one, or two have the same.
    """
    schema = open_scores(config.path, storage_options=config.storage_options, wait_s=wait_s).schema
    names = _names(schema, config.path, config.scorer_name)
    if config.join and "" in names.values():
        raise RecipeError(
            f"the scorer of {config.path} has no name, and rewards of other runs are to stand beside its own; give "
            "it one with run.scorer_name"
        )
    columns = {
        renamed(column, scorer, names[scorer]): column
        for scorer, those in scorer_columns(schema).items()
        for column in those
    }
    own = {name: column for name, column in columns.items() if name != column}
    shown = {column: name for name, column in columns.items()}
    fields = [each.with_name(shown.get(each.name, each.name)) for each in schema]
    taken = dict.fromkeys(names.values(), config.path)
    joined = []
    for name, other in config.join.items():
        table, theirs = _joined(name, other, taken, wait_s)
        joined.append(table)
        fields += theirs
    return Tables(pa.schema(fields), Table("", _storage(config, wait_s), own), tuple(joined))


def _joined(name: str, config: JoinedTable, taken: dict[str, str], wait_s: float) -> tuple[Table, list[pa.Field]]:
    schema = open_scores(config.path, storage_options=config.storage_options, wait_s=wait_s).schema
    found = scorer_columns(schema)
    names = _names(schema, config.path, name if "" in found else None)
    wanted = list(names.values()) if config.scorers is None else config.scorers
    if unknown := [each for each in wanted if each not in names.values()]:
        raise RecipeError(
            f"run.join.{name}.scorers: {config.path} has no scorer {unknown[0]!r}; it has {', '.join(names.values())}"
        )
    for each in wanted:
        if each in taken:
            raise RecipeError(
                f"{taken[each]} and {config.path} both have a scorer {each!r}; say with run.join.{name}.scorers which "
                "of the second are taken"
            )
        taken[each] = config.path
    columns = {
        renamed(column, scorer, names[scorer]): column
        for scorer, those in found.items()
        if names[scorer] in wanted
        for column in those
        if pa.types.is_list(schema.field(column).type)
    }
    fields = [schema.field(column).with_name(shown) for shown, column in columns.items()]
    return Table(name, _storage(config, wait_s), columns), fields


def _storage(config: ScoreTable | JoinedTable, wait_s: float) -> Storage:
    folder = table_folder(config.path, config.storage_options, wait_s)
    return Storage.of(folder, config.storage_options, wait_s)


def _names(schema: pa.Schema, path: str, name: str | None) -> dict[str, str]:
    """Returns the names of a table's scorers among all tables, by those in its files."""
    found: Iterable[str] = scorer_columns(schema)
    if name is not None and list(found) != [""]:
        has = f"it has {', '.join(found)}" if any(found) else "it has no scorer"
        raise RecipeError(f"run.scorer_name is for a table with one scorer without a name, and {path} is none: {has}")
    return {scorer: name if name is not None else scorer for scorer in found}
