"""The runs of earlier versions in ``golden/runs``: put back as they were written, with the recipes that made them."""

import json
import os
import shutil
import tarfile
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from moto.s3.models import s3_backends
from s3_server import Bucket

from polar_ray.recipe.curate import CurateRecipe
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.commit import parquet_bytes

GOLDEN = Path(__file__).parent / "golden"
KEPT = GOLDEN / "runs"
ARCHIVE = KEPT / "runs.tar.gz"
RECIPES: dict[str, dict[str, Any]] = json.loads((KEPT / "recipes.json").read_text())
DERIVATIONS: dict[str, dict[str, Any]] = json.loads((KEPT / "derivations.json").read_text())
MODIFIED = 1767225600.0
"""When all files were last modified, in seconds since 1970: the first second of 2026. Runs know their input by it."""
CLOCK = MODIFIED + 86400
"""When the first tick of the curations was."""
LOCAL = Path("/tmp/polar-ray-golden-runs")
"""Where the local run was made; nothing is there any more."""


@cache
def kept() -> dict[str, bytes]:
    """Returns the files of all runs by name: in ``bucket/`` and in ``local/``."""
    with tarfile.open(ARCHIVE) as packed:
        return {entry.name: packed.extractfile(entry).read() for entry in packed}  # type: ignore[union-attr]


def below(folder: str) -> dict[str, bytes]:
    """Returns the files below a folder by their names there."""
    return {name.removeprefix(f"{folder}/"): data for name, data in kept().items() if name.startswith(f"{folder}/")}


def set_modified(store: Bucket) -> None:
    """Says that all objects of the bucket were last modified then."""
    # S3 itself takes no such time from its users; this server runs in this process.
    for key in s3_backends["123456789012"]["aws"].buckets["bucket"].keys.values():
        key.last_modified = datetime.fromtimestamp(MODIFIED, timezone.utc)


def put_back(store: Bucket, *folders: str) -> None:
    """Puts the inputs and some folders into the bucket as they were, in place of what is there."""
    for name in store.names(""):
        store.client.delete_object(Bucket="bucket", Key=name)
    for folder in ("in", *folders):
        for name, content in below(f"bucket/{folder}").items():
            store.put(f"{folder}/{name}", content)
    set_modified(store)


def models(folder: Path) -> None:
    """Puts the tiny checkpoints of the runs into a folder."""
    shutil.copytree(GOLDEN / "polar" / "polar_tiny_a", folder / "polar")
    shutil.copytree(GOLDEN / "heads" / "ckpt_llama_seqcls", folder / "llama")
    shutil.copytree(GOLDEN / "heads" / "tok_llama3_bos_in_template", folder / "llama", dirs_exist_ok=True)


def recipe_of(name: str, options: dict[str, Any], *overrides: str, output: str | None = None) -> Recipe:
    """Returns the recipe of a golden run in the bucket; ``options`` are the bucket's."""
    data = RECIPES[name]
    output_of = {"path": f"s3://bucket/{output or name}", "storage_options": options}
    return Recipe.of(
        {**data, "input": {**data["input"], "storage_options": options}, "output": output_of}, [*overrides]
    )


def curation(options: dict[str, Any], name: str, *overrides: str) -> CurateRecipe:
    """Returns the recipe of a golden curation in the bucket."""
    data = json.loads((KEPT / "curation.json").read_text())
    output = {"path": f"s3://bucket/{name}", "storage_options": options}
    data |= {"input": {**data["input"], "storage_options": options}, "output": output}
    return CurateRecipe.of(data, [*overrides])


def put_local(folder: Path) -> None:
    """Puts the local run and its input into a folder, as if it had been made there.

    The folder's path is in records and in the parts, and the parts' sizes are in the commits. What is in the parts
    stays as it is; their bytes do not.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def moved(text: str) -> str:
        return text.replace(str(LOCAL), str(folder))

    for name, content in below("local").items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(moved(content.decode()).encode() if path.suffix == ".json" else content)
        if name.startswith("in/"):
            os.utime(path, (MODIFIED, MODIFIED))
        elif path.suffix == ".parquet":
            table = pq.read_table(path)
            for column in {"input_file", "file", "message"} & set(table.column_names):
                texts = pa.array([moved(text) for text in table[column].to_pylist()], table.schema.field(column).type)
                index = table.column_names.index(column)
                table = table.set_column(index, table.schema.field(index), texts)
            path.write_bytes(parquet_bytes(table))
    total = 0
    for path in (folder / "out" / "_run" / "commits").iterdir():
        commit = json.loads(path.read_text())
        part = folder / "out" / "scores" / f"part-{path.stem}.parquet"
        removal = folder / "out" / "_run" / "duplicates" / path.name
        removed = json.loads(removal.read_text())["part_bytes"] if removal.exists() else 0
        size = part.stat().st_size if part.exists() else 0
        path.write_text(json.dumps({**commit, "part_bytes": size + removed}))
        total += size
    path = folder / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["counts"]["score_table_bytes"] = total
    path.write_text(json.dumps(manifest))
