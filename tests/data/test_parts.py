"""A finished score table is whole or an error that names the part, whoever reads it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from score_tables import group, score_table, write_run

from polar_ray.data.parts import check_parts, run_parts
from polar_ray.data.scores import open_scores, read_scores
from polar_ray.data.storage import Storage
from polar_ray.deriving.derive import derive
from polar_ray.deriving.report.report import report
from polar_ray.errors import OutputError
from polar_ray.recipe.derive import DeriveRecipe

PART = "part-00000-00001.parquet"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three parts with the records that a run leaves of them; from the last one a duplicate was taken out."""
    table = score_table([group(f"p{number}", [1.0, 2.0]) for number in range(9)])
    folder = write_run(tmp_path / "run", table, part_rows=3)
    sizes = {path.stem.removeprefix("part-"): path.stat().st_size for path in (folder / "scores").iterdir()}
    for kind in ("commits", "duplicates"):
        (folder / "_run" / kind).mkdir(parents=True)
    for split, size in sizes.items():
        written = size + 100 if split == "00000-00002" else size
        (folder / "_run" / "commits" / f"{split}.json").write_text(json.dumps({"part_bytes": written}))
    (folder / "_run" / "duplicates" / "00000-00002.json").write_text(json.dumps({"part_bytes": 100}))
    count(folder, score_table_bytes=sum(sizes.values()))
    return folder


def count(run: Path, **counts: Any) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "counts": {**manifest["counts"], **counts}}))


def delete(part: Path) -> None:
    part.unlink()


def truncate(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-50])


def empty(part: Path) -> None:
    part.write_bytes(b"")


def scramble(part: Path) -> None:
    part.write_bytes(b"x" * part.stat().st_size)


def add(part: Path) -> None:
    shutil.copy(part, part.with_name("part-00000-00001 copy.parquet"))


def test_a_table_that_is_as_it_was_written_opens(run: Path) -> None:
    assert open_scores(str(run)).count_rows() == 9


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (delete, f"{PART} is gone"),
        (truncate, rf"{PART} has [\d,]+ bytes where [\d,]+ were written"),
        (empty, f"{PART} has 0 bytes where"),
        (add, r"part-00000-00001 copy.parquet is no part of this run"),
    ],
)
def test_a_part_that_is_not_what_was_written_is_named_with_the_way_on(
    run: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(run / "scores" / PART)
    for _ in range(2):
        with pytest.raises(OutputError, match=rf"{message}.*delete {run}/manifest.json and run the command again"):
            open_scores(str(run))
        # Of a version that did not sum its parts, the records of the splits still tell.
        count(run, score_table_bytes=None)


def test_the_sum_alone_tells_that_something_is_missing_where_a_record_is_gone_too(run: Path) -> None:
    (run / "scores" / PART).unlink()
    (run / "_run" / "commits" / "00000-00001.json").unlink()
    with pytest.raises(OutputError, match=r"scores holds [\d,]+ bytes in 2 parts where .*manifest.json counts [\d,]+"):
        open_scores(str(run))


def test_a_whole_table_costs_no_look_at_the_records_of_its_splits(run: Path) -> None:
    shutil.rmtree(run / "_run")
    table = Storage.of(str(run))
    check_parts(table, run_parts(table))


def derived(run: Path) -> None:
    derive(
        DeriveRecipe.of(
            {
                "run": {"path": str(run)},
                "output": {"path": str(run.parent / "derived")},
                "best_of_n": {"top_k": 1},
                "compute": {"processes": 1},
            }
        )
    )


def reported(run: Path) -> None:
    report(str(run), str(run.parent / "report.html"), processes=1)


def read(run: Path) -> None:
    read_scores(str(run))


@pytest.mark.parametrize("reader", [derived, reported, read])
@pytest.mark.parametrize("part", ["part-00000-00000.parquet", PART])
def test_a_part_that_is_no_parquet_is_named_in_one_sentence(
    run: Path, reader: Callable[[Path], None], part: str
) -> None:
    scramble(run / "scores" / part)
    with pytest.raises(
        OutputError, match=rf"{part}.*cannot be read as Parquet|cannot be read as Parquet .*{part}"
    ) as e:
        reader(run)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("reader", [derived, reported])
@pytest.mark.parametrize("damage", [delete, truncate])
def test_no_command_goes_on_with_a_table_that_is_not_whole(
    run: Path, reader: Callable[[Path], None], damage: Callable[[Path], None]
) -> None:
    damage(run / "scores" / PART)
    with pytest.raises(OutputError, match=PART):
        reader(run)
