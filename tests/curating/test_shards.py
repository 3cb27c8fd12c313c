"""Shards are the files of the input, and nothing that the curation itself wrote."""

import os
import time
from pathlib import Path

import pytest
from conftest import rows, write_jsonl, write_parquet

from polar_ray.curating.shards import listed_shards
from polar_ray.data.storage import Storage
from polar_ray.recipe.curate import CurateRecipe


def curation(inputs: Path, out: Path) -> CurateRecipe:
    return CurateRecipe.of(
        {
            "input": {"path": str(inputs)},
            "scorer": {"kind": "length"},
            "derive": {"pairs": {"pairs": {}}},
            "output": {"path": str(out)},
        }
    )


def listed(wanted: CurateRecipe) -> list[str]:
    return list(listed_shards(wanted, Storage.of(wanted.output.path), time.time()))


@pytest.mark.parametrize(("read", "written"), [("real", "real/out"), ("link", "real/out"), ("real", "link/out")])
def test_what_a_curation_wrote_is_no_shard_by_whatever_path_it_is_reached(
    tmp_path: Path, read: str, written: str
) -> None:
    write_jsonl(tmp_path / "real" / "a.jsonl", rows(1))
    write_parquet(tmp_path / "real" / "out" / "runs" / "x" / "dead_letters" / "part-00000-00000.parquet", rows(1))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert listed(curation(tmp_path / read, tmp_path / written)) == [f"{tmp_path}/{read}/a.jsonl"]


@pytest.mark.parametrize(
    ("min_age_s", "ahead_s", "waits"),
    [(0, 3, False), (0, 4e8, False), (60, 3, True), (60, 4e8, False), (60, -3, True), (60, -61, False)],
)
def test_a_shard_with_a_time_in_the_future_does_not_wait_for_ever(
    tmp_path: Path, min_age_s: float, ahead_s: float, waits: bool
) -> None:
    path = write_jsonl(tmp_path / "in" / "a.jsonl", rows(1))
    now = 1.8e9
    os.utime(path, (now + ahead_s, now + ahead_s))
    wanted = curation(tmp_path / "in", tmp_path / "out").model_copy(update={"min_age_s": min_age_s})
    assert list(listed_shards(wanted, Storage.of(wanted.output.path), now)) == ([] if waits else [str(path)])
