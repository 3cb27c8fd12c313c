"""Shards are the files of the input, and nothing that the curation itself wrote."""

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
