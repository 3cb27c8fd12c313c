"""Records that were edited by hand are refused in one sentence, wherever in them the slip is."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from old_runs import below
from runs import commit

from polar_ray.data.listing import InputFile
from polar_ray.data.manifests import decode_manifest
from polar_ray.data.sources import Source
from polar_ray.deriving.report.run_record import kinds_of, run_record
from polar_ray.errors import NotARun, OutputError, PolarRayError
from polar_ray.recipe.recipe import Recipe
from polar_ray.recipe.run import Limits
from polar_ray.running.folder import RunFolder
from polar_ray.running.identity import read_identity
from polar_ray.running.manifest import Manifest, error_line, read_manifest
from polar_ray.running.retrial import Retrial
from polar_ray.running.tally import Tally
from polar_ray.running.todo import Todo
from polar_ray.showing import print_manifest

RUNS = ("several", "retried/generations/2", "polar")
GONE = object()
SLIPS: list[Any] = [None, "x", "", -1, 10**30, [], {}, [None], {"x": {}}, True, GONE]


def slips(record: Any) -> Iterator[tuple[str, Any]]:
    """Yields a record with each of its values replaced or taken away, and where that is."""

    def places(value: Any, above: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        below: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, each in below:
            yield (*above, key)
            yield from places(each, (*above, key))

    for place in places(record, ()):
        for slip in SLIPS:
            changed = copy.deepcopy(record)
            holder = changed
            for key in place[:-1]:
                holder = holder[key]
            if slip is GONE:
                del holder[place[-1]]
            else:
                holder[place[-1]] = slip
            yield f"{place} = {'gone' if slip is GONE else slip!r}", changed


def used(folder: RunFolder) -> None:
    """Does what commands do with a manifest before they do anything else."""
    manifest = read_manifest(folder)
    print_manifest(manifest, folder.path)
    error_line(manifest)
    retrial = Retrial(folder, manifest, 2, frozenset(), replanned=False)
    assert set(retrial.errors) == set(manifest.counts["statuses"])
    held = {**manifest.recipe, "input": {**manifest.recipe["input"], "storage_options": {}}}
    recipe = Recipe.of(held)
    retrial.check({name: dict(manifest.fingerprints[name]) for name in recipe.named_scorers})
    assert all(isinstance(file["path"], str) for file in manifest.inputs)
    data = decode_manifest(Path(folder.manifest).read_bytes(), folder.manifest)
    run_record(data)
    kinds_of(data)


@pytest.mark.parametrize("name", RUNS)
def test_no_slip_in_a_manifest_is_more_than_a_sentence(name: str, tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    (tmp_path / "_run").mkdir()
    whole = below(f"bucket/{name}")["manifest.json"]
    Path(folder.manifest).write_bytes(whole)
    used(folder)
    refused = 0
    for place, changed in slips(json.loads(whole)):
        Path(folder.manifest).write_text(json.dumps(changed))
        try:
            used(folder)
        except PolarRayError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{place} raises {error!r}") from error
    assert refused > 300


def test_a_manifest_with_everything_that_it_had_is_read(tmp_path: Path) -> None:
    for name in RUNS:
        (tmp_path / "manifest.json").write_bytes(below(f"bucket/{name}")["manifest.json"])
        assert isinstance(read_manifest(RunFolder(str(tmp_path))), Manifest)


@pytest.mark.parametrize(
    "slip",
    [{"groups": 2**40}, {"rows": -1}, {"statuses": {"": {"fine": 2}}}, {"file_index": -1}, {"candidates": 1e300}],
)
def test_no_slip_in_the_record_of_a_split_is_more_than_a_sentence(tmp_path: Path, slip: dict[str, Any]) -> None:
    folder = RunFolder(str(tmp_path))
    path = Path(folder.commit("00000-00000"))
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**json.loads(msgspec.json.encode(commit())), **slip}))
    with pytest.raises(OutputError, match=rf"{path} is damaged.*its split is scored again"):
        folder.read_commits()


def test_the_record_of_a_split_of_no_file_of_the_input_is_refused() -> None:
    source = Source(0, InputFile("/in/a.jsonl", 8, None, 1.0, "jsonl", None))
    with pytest.raises(OutputError, match=r"of file 7 of the input, which has 1: it is damaged"):
        Todo([source], {"00007-00000": msgspec.structs.replace(commit(), split_id="00007-00000", file_index=7)})


def test_a_scorer_without_any_status_is_not_hopeless() -> None:
    Tally([msgspec.structs.replace(commit(), statuses={"x": {}})]).check(Limits(), final=True)


def test_settings_of_a_custom_scorer_that_are_no_json_are_a_damaged_record(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    (tmp_path / "_run").mkdir()
    record = json.loads(below("bucket/several")["_run/run.json"])
    record["fingerprints"]["plain"] = {"target": "some:Scorer", "settings": "x"}
    Path(folder.identity).write_text(json.dumps(record))
    with pytest.raises(NotARun, match="is not the record of a run"):
        read_identity(folder)
