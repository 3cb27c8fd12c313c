"""Makes the golden runs: python tests/golden/runs/make.py, from a checkout of the version whose runs they shall be.

Everything but the local run lies in a bucket, so no path of a machine is in any record, and what was written can be put
back byte for byte. Interrupted runs are killed with all their processes as soon as their first split is committed.
"""

import gzip
import io
import json
import os
import shutil
import socket
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TESTS = HERE.parents[1]
sys.path.insert(0, str(TESTS))
os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS)])
# Leases name the machine.
socket.gethostname = lambda: "golden"

from old_runs import (  # noqa: E402
    ARCHIVE,
    CLOCK,
    DERIVATIONS,
    LOCAL,
    MODIFIED,
    RECIPES,
    curation,
    models,
    recipe_of,
    set_modified,
)
from processes import command, wait_for  # noqa: E402
from runs import recipe as local_recipe  # noqa: E402
from s3_server import Bucket, bucket  # noqa: E402

from polar_ray.curating.tick import Curation  # noqa: E402
from polar_ray.deriving.derive import derive  # noqa: E402
from polar_ray.recipe.derive import DeriveRecipe  # noqa: E402
from polar_ray.recipe.run import Compute  # noqa: E402
from polar_ray.running.cluster import connected  # noqa: E402
from polar_ray.running.progress import Silent  # noqa: E402
from polar_ray.running.retry import retry  # noqa: E402
from polar_ray.running.run import run  # noqa: E402

PLACES = ["river", "harbour", "mountain", "market", "library", "station", "garden", "bridge", "forest", "castle"]


def group(number: int) -> dict[str, Any]:
    """A prompt with a reference and three answers, of which one is the reference and two are tied now and then."""
    place, answer = PLACES[number % len(PLACES)], f"The {PLACES[number % len(PLACES)]} lies {number + 2} km north."
    texts = [answer, f"It is {number % 3} km away.", f"Nobody knows where the {place} is."]
    return {
        "prompt_id": f"p{number:02d}",
        "prompt": [{"role": "user", "content": f"Where is the {place}? ({number})"}],
        "reference": [{"role": "assistant", "content": answer}],
        "candidates": [
            {"candidate_id": f"c{index}", "messages": [{"role": "assistant", "content": text}], "model": f"m{index}"}
            for index, text in enumerate(texts)
        ],
        "lang": "en",
    }


def candidates(group: dict[str, Any]) -> list[dict[str, Any]]:
    """The same as rows, one for each candidate."""
    return [
        {**{key: group[key] for key in ("prompt_id", "prompt", "reference", "lang")}, **candidate}
        for candidate in group["candidates"]
    ]


def lines(rows: list[Any]) -> bytes:
    """Rows as JSON lines; a text is a line as it stands."""
    return b"".join((row if isinstance(row, str) else json.dumps(row)).encode() + b"\n" for row in rows)


def inputs() -> dict[str, bytes]:
    """The files of the inputs, by name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    torn = '{"prompt_id": "torn", "prompt": [{"role": "us'
    sink = pa.BufferOutputStream()
    # The first of them has been in a.jsonl.
    pq.write_table(pa.Table.from_pylist([group(number) for number in (1, 8, 9, 10)]), sink, row_group_size=2)
    scattered = [row for number in range(6) for row in candidates(group(number))]
    scattered = scattered[::5] + scattered[1::5] + scattered[2::5] + scattered[3::5] + scattered[4::5]
    return {
        "groups/a.jsonl": lines([*map(group, range(4)), torn, "", *map(group, range(4, 8))]),
        "groups/b.parquet": sink.getvalue().to_pybytes(),
        "candidates/a.jsonl": lines([*(row for number in range(6) for row in candidates(group(number))), torn]),
        "scattered/a.jsonl": lines(scattered[:10]),
        "scattered/b.jsonl": lines([*scattered[10:], torn]),
        "watched/a.jsonl": lines([group(0), group(1), group(2), torn]),
        "later/b.jsonl": lines([group(3), group(4)]),
        "later/c.jsonl": lines([group(5), group(6), group(7)]),
    }


def half(store: Bucket, name: str, log: Path) -> None:
    """Begins a run in a process of its own and kills it when its first split is committed."""
    recipe = json.dumps(recipe_of(name, store.options, output=f"{name}_half").model_dump(mode="json"))
    program = (
        "import sys; from polar_ray.recipe.recipe import Recipe; from polar_ray.running.run import run; "
        "run(Recipe.of(__import__('json').loads(sys.argv[1])))"
    )
    with command([sys.executable, "-c", program, recipe], log) as running:
        wait_for("a commit", lambda: bool(store.names(f"{name}_half/_run/commits/")), every_s=0.001)
        running.family()
    done, all_ = (len(store.names(f"{run}/_run/commits/")) for run in (f"{name}_half", name))
    assert 0 < done < all_, f"{name}: {done} of {all_} splits when it was killed"
    assert f"{name}_half/manifest.json" not in store.names(f"{name}_half/")


class Stop(Silent):
    """Interrupts at the first split that is committed."""

    def update(self, *_: Any) -> None:
        raise KeyboardInterrupt


def make(store: Bucket, scratch: Path) -> None:
    """Makes what lies in the bucket."""
    for name, content in inputs().items():
        store.put(f"in/{name}", content)
    set_modified(store)
    with connected(Compute()):
        for name in RECIPES:
            if name not in ("local", "added"):
                run(recipe_of(name, store.options))
        set_modified(store)
        run(recipe_of("added", store.options))
        # The same errors, of which a retry mends some.
        run(recipe_of("errors", store.options, output="retried"))
        options = json.dumps(store.options)
        storage = [f"input.storage_options={options}", f"output.storage_options={options}"]
        retry("s3://bucket/retried", [*storage, 'scorer.settings.words=["river"]'], allow_changed=True)
        for name, data in DERIVATIONS.items():
            where = {"output": {"path": f"s3://bucket/derived/{name}", "storage_options": store.options}}
            derive(DeriveRecipe.of({**data, **where, "run": {**data["run"], "storage_options": store.options}}))
        Curation(curation(store.options, "curated"), clock=lambda: CLOCK).tick()
        Curation(curation(store.options, "curated_half"), clock=lambda: CLOCK).tick()
        store.put("in/watched/b.jsonl", store.get("in/later/b.jsonl"))
        set_modified(store)
        Curation(curation(store.options, "curated"), clock=lambda: CLOCK + 3600).tick()
        try:
            Curation(curation(store.options, "curated_half"), reporter=Stop(), clock=lambda: CLOCK + 3600).tick()
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("the second tick was not interrupted")
    for name in ("closeness", "errors", "polar", "several", "scattered"):
        half(store, name, scratch / f"{name}.log")


def make_local() -> None:
    """Makes the run on local files."""
    shutil.rmtree(LOCAL, ignore_errors=True)
    (LOCAL / "in").mkdir(parents=True)
    for name in ("a.jsonl", "b.parquet"):
        (LOCAL / "in" / name).write_bytes(inputs()[f"groups/{name}"])
        os.utime(LOCAL / "in" / name, (MODIFIED, MODIFIED))
    data = RECIPES["local"]
    with connected(Compute()):
        run(local_recipe(data["input"]["path"], LOCAL / "out", "input.split_rows=3", name=data["name"]))


def pack(files: dict[str, bytes], archive: Path) -> None:
    """Writes all files into one archive; the same files give the same bytes."""
    with gzip.GzipFile(archive, "wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as packed:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))


def main() -> None:
    """Makes all of them anew."""
    scratch = Path(tempfile.mkdtemp())
    models(scratch / "models")
    os.chdir(scratch)
    with bucket() as store:
        make(store, scratch)
        files = {f"bucket/{name}": store.get(name) for name in store.names("")}
    make_local()
    files |= {f"local/{path.relative_to(LOCAL)}": path.read_bytes() for path in LOCAL.rglob("*") if path.is_file()}
    pack(files, ARCHIVE)
    shutil.rmtree(LOCAL)
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
