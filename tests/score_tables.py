"""Score tables for tests of deriving: made by hand, and written as a run leaves them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from polar_ray.data.group import GROUP_SCHEMA

Message = dict[str, str]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def group(prompt_id: str, rewards: list[float | None], texts: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """Returns one row of a score table; texts are all different unless given. ``more`` adds or replaces columns."""
    texts = texts if texts is not None else [f"answer {number}" for number in range(len(rewards))]
    return {
        "prompt_id": prompt_id,
        "prompt": [user(f"question {prompt_id}")],
        "references": [[assistant(f"reference {prompt_id}")]],
        "candidates": [
            {"candidate_id": f"c{number}", "messages": [assistant(text)], "model": f"m{number % 2}", "extra": None}
            for number, text in enumerate(texts)
        ],
        "extra": None,
        "reward": rewards,
        "status": ["ok" if reward is not None else "error" for reward in rewards],
        "tokens": [10] * len(rewards),
        **more,
    }


def score_table(rows: list[dict[str, Any]], **types: pa.DataType) -> pa.Table:
    """Returns rows as a score table with one scorer; ``types`` names further columns."""
    scores = {"reward": pa.float32(), "status": pa.string(), "tokens": pa.int32()}
    fields = [*GROUP_SCHEMA, *(pa.field(name, pa.list_(type_)) for name, type_ in scores.items())]
    fields += [pa.field(name, type_) for name, type_ in types.items()]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields))


def write_run(folder: Path, table: pa.Table, part_rows: int = 7) -> Path:
    """Writes a score table as a finished run leaves it."""
    (folder / "scores").mkdir(parents=True)
    starts = range(0, max(table.num_rows, 1), part_rows)
    for number, start in enumerate(starts):
        part = table.slice(start, part_rows)
        pq.write_table(part, folder / "scores" / f"part-00000-{number:05d}.parquet", compression="zstd")
    candidates = sum(len(each) for each in table.column("candidates").to_pylist())
    manifest = {
        "recipe": {"name": "by-hand"},
        "counts": {"groups": table.num_rows, "candidates": candidates},
        "fingerprints": {"": {"kind": "by hand"}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder
