"""One finished run of real generations, shared by the tests that only look at it."""

from pathlib import Path

import pytest
from runs import TESTS, recipe

from polar_ray.running.manifest import Manifest
from polar_ray.running.run import run

SAMPLE = TESTS.parent / "pipelines" / "sample" / "generations.jsonl"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> tuple[Path, Manifest]:
    """The shipped generations, a broken line and a prompt without a reference, scored by closeness in splits of ten."""
    folder = tmp_path_factory.mktemp("finished")
    lines = SAMPLE.read_bytes()
    lines += b'{"broken": \n\n'
    lines += b'{"prompt_id": "bare", "prompt": "Say something.", "candidates": ["Something."]}\n'
    (folder / "in.jsonl").write_bytes(lines)
    wanted = recipe(
        folder / "in.jsonl",
        folder / "out",
        "input.split_rows=10",
        "input.storage_options={}",
        "name=finished",
        scorer={"kind": "text_closeness"},
    )
    return folder / "out", run(wanted)
