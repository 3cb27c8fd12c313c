"""Law 11: runs, datasets and curations of earlier versions open, resume, derive, report, retry and curate."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from old_runs import (
    CLOCK,
    DERIVATIONS,
    MODIFIED,
    RECIPES,
    below,
    curation,
    models,
    put_back,
    put_local,
    recipe_of,
    set_modified,
)
from runs import Listening, recipe, score_table
from s3_server import Bucket, bucket, environment
from typer.testing import CliRunner

from polar_ray.cli import app
from polar_ray.curating.tick import Curation
from polar_ray.curating.versions import latest_version
from polar_ray.data.scores import read_scores
from polar_ray.deriving.derive import derive
from polar_ray.errors import RecipeChanged, ScorerChanged
from polar_ray.recipe.derive import DeriveRecipe
from polar_ray.running.manifest import Manifest
from polar_ray.running.retry import retry
from polar_ray.running.run import run

FINISHED = {
    "closeness": (11, 33),
    "errors": (11, 33),
    "retried": (11, 33),
    "polar": (11, 33),
    "several": (6, 18),
    "scattered": (6, 18),
    "added": (11, 33),
    "curated/versions/{latest}/table": (5, 15),
}
"""Groups and candidates of each finished score table."""


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with bucket() as started, environment(started.environment):
        yield started


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that say where the tiny checkpoints are, for the runs with a model."""
    folder = tmp_path_factory.mktemp("checkpoints")
    models(folder)
    return [f"scorer.model={folder}/polar", f"scorers.llama.model={folder}/llama"]


def place(name: str) -> str:
    """The folder of a finished run in the bucket."""
    return name.format(latest=json.loads(below("bucket/curated")["latest.json"])["version"])


def overrides_of(name: str, checkpoints: list[str]) -> list[str]:
    return {"polar": checkpoints[:1], "several": checkpoints[1:]}.get(name, [])


def storage(store: Bucket) -> list[str]:
    options = json.dumps(store.options)
    return [f"input.storage_options={options}", f"output.storage_options={options}"]


def tables(files: dict[str, bytes]) -> dict[str, pa.Table]:
    """The parts and dead letters of a run, by name."""
    return {
        name: pq.read_table(io.BytesIO(content))
        for name, content in sorted(files.items())
        if name.startswith(("scores/", "dead_letters/")) and name.endswith(".parquet")
    }


def written(store: Bucket, folder: str) -> dict[str, bytes]:
    """What is in a folder of the bucket now, by name."""
    return {name.removeprefix(f"{folder}/"): store.get(name) for name in store.names(f"{folder}/")}


def rewards(table: pa.Table) -> dict[str, list[float | None]]:
    return dict(zip(table["prompt_id"].to_pylist(), table["reward"].to_pylist(), strict=True))


def old_rewards(folder: str) -> dict[str, list[float | None]]:
    """The rewards of a golden run, read with pyarrow alone."""
    return rewards(pa.concat_tables([table.select(["prompt_id", "reward"]) for name, table in parts(folder).items()]))


def parts(folder: str) -> dict[str, pa.Table]:
    return {name: table for name, table in tables(below(f"bucket/{folder}")).items() if name.startswith("scores/")}


@pytest.mark.parametrize("name", FINISHED)
def test_an_old_score_table_opens_shows_and_reports(name: str, server: Bucket, tmp_path: Path) -> None:
    put_back(server, name.split("/")[0])
    groups, candidates = FINISHED[name]
    path = f"s3://bucket/{place(name)}"
    table = read_scores(path, storage_options=server.options)
    assert table.num_rows == groups
    assert sum(map(len, table["candidates"].to_pylist())) == candidates
    shown = CliRunner().invoke(app, ["show", path])
    assert shown.exit_code == 0, shown.output
    assert f"{groups} groups, {candidates} candidates" in shown.output
    page = tmp_path / "report.html"
    chosen = ["--scorer", "closeness"] if name in ("several", "added") else []
    reported = CliRunner().invoke(app, ["report", path, "-o", str(page), "--processes", "1", *chosen])
    assert reported.exit_code == 0, reported.output
    assert "p04" in page.read_text() or name.startswith("curated")


@pytest.mark.parametrize("name", ["polar", "scattered", "added"])
def test_an_old_finished_run_counts_as_finished(
    name: str, server: Bucket, checkpoints: list[str], embedded_ray: None
) -> None:
    put_back(server, name, "closeness")
    before = written(server, name)
    told = Listening()
    run(recipe_of(name, server.options, *overrides_of(name, checkpoints)), reporter=told)
    assert any("finished; nothing to do" in line for line in told.said), told.said
    assert written(server, name) == before


@pytest.mark.parametrize("name", ["errors", "polar", "several", "scattered"])
def test_an_old_run_that_was_killed_is_finished_as_its_own_version_finished_it(
    name: str, server: Bucket, checkpoints: list[str], embedded_ray: None
) -> None:
    put_back(server, f"{name}_half")
    half = below(f"bucket/{name}_half")
    done = sum(file.startswith("_run/commits/") for file in half)
    wanted = recipe_of(name, server.options, *overrides_of(name, checkpoints), output=f"{name}_half")
    manifest = run(wanted)
    old = json.loads(below(f"bucket/{name}")["manifest.json"])
    assert manifest.resumed_splits >= done
    assert without_secrets(manifest.fingerprints) == without_secrets(old["fingerprints"])
    assert manifest.inputs == old["inputs"]
    assert manifest.conservation == old["conservation"]
    now, expected = written(server, f"{name}_half"), below(f"bucket/{name}")
    assert_same_tables(tables(now), tables(expected), exact=name not in ("polar", "several"))
    if old["versions"]["pyarrow"] == pa.__version__ and name not in ("polar", "several"):
        assert manifest.counts == old["counts"]
        for file in tables(expected):
            assert now[file] == expected[file], file


def without_secrets(fingerprints: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Without the settings of custom scorers: earlier versions held them as they are, and now there are hashes.

    That they are the same ones was a condition of going on.
    """
    return {
        name: {
            key: value
            for key, value in each.items()
            if "target" not in each or (key != "settings" and not key.startswith("setting:"))
        }
        for name, each in fingerprints.items()
    }


def assert_same_tables(now: dict[str, pa.Table], expected: dict[str, pa.Table], *, exact: bool) -> None:
    """The same parts with the same rows; rewards of a model may differ by what float32 rounds on another processor."""
    assert now.keys() == expected.keys()
    for name, table in expected.items():
        assert now[name].schema.names == table.schema.names
        for column in table.column_names:
            found, wanted = now[name][column].to_pylist(), table[column].to_pylist()
            if not exact and column.split(".")[-1] == "reward":
                found, wanted = [value for row in found for value in row], [value for row in wanted for value in row]
                assert found == pytest.approx(wanted, abs=2e-5), f"{column} of {name}"
            else:
                assert found == wanted, f"{column} of {name}"


@pytest.mark.parametrize("name", DERIVATIONS)
def test_an_old_run_gives_the_dataset_that_was_derived_from_it(name: str, server: Bucket) -> None:
    recipe_data = DERIVATIONS[name]
    run_path = recipe_data["run"]["path"]
    put_back(server, run_path.rsplit("/", 1)[-1])
    data = {
        **recipe_data,
        "run": {**recipe_data["run"], "storage_options": server.options},
        "output": {"path": "s3://bucket/anew", "storage_options": server.options},
    }
    derive(DeriveRecipe.of(data))
    now, expected = written(server, "anew"), below(f"bucket/derived/{name}")
    files = {file for file in expected if file.startswith(("data/", "ledger/"))}
    assert {file for file in now if file.startswith(("data/", "ledger/"))} == files
    for file in files:
        if file.endswith(".parquet"):
            assert (
                pq.read_table(io.BytesIO(now[file])).to_pylist()
                == pq.read_table(io.BytesIO(expected[file])).to_pylist()
            )
        else:
            assert now[file] == expected[file], file


def without_settings(server: Bucket, path: str, *keys: str) -> None:
    """Takes settings of a derivation out of a record, as if its version had not known them."""
    record = json.loads(server.get(path))
    for key in keys:
        part, _, name = key.partition(".")
        del record["recipe"][part][name]
    server.put(path, json.dumps(record).encode())


LATER = ("pairs.prefer", "candidates.max_disagreement", "files.provenance")
"""Settings of the golden derivation, at their defaults, that a version before it would not have known."""


def test_an_old_derived_dataset_is_finished_although_there_are_more_settings_and_other_libraries_now(
    server: Bucket,
) -> None:
    put_back(server, "closeness", "derived")
    without_settings(server, "derived/pairs/_derive/derive.json", *LATER)
    marker = server.get("derived/pairs/_derive/derive.json").replace(b'"pyarrow": "26', b'"pyarrow": "25')
    server.put("derived/pairs/_derive/derive.json", marker)
    before = written(server, "derived/pairs")
    data = DERIVATIONS["pairs"]
    data = {
        **data,
        "run": {**data["run"], "storage_options": server.options},
        "output": {"path": "s3://bucket/derived/pairs", "storage_options": server.options},
    }
    assert derive(DeriveRecipe.of(data)).counts["rows"] == 11
    assert written(server, "derived/pairs") == before
    with pytest.raises(RecipeChanged, match=r"derived otherwise: recipe\.pairs\.prefer was widest and is narrowest;"):
        derive(DeriveRecipe.of(data, ["pairs.prefer=narrowest"]))


def test_errors_of_an_old_run_are_scored_again_and_the_rest_is_kept(server: Bucket, embedded_ray: None) -> None:
    put_back(server, "errors")
    manifest = retry("s3://bucket/errors", [*storage(server), "scorer.settings.words=[]"], allow_changed=True)
    assert manifest.counts["statuses"] == {"": {"ok": 33}}
    assert manifest.generation is not None
    assert [(source.generation, source.groups) for source in manifest.generation.sources] == [(1, 8), (2, 3)]
    now, before = rewards(read_scores("s3://bucket/errors", storage_options=server.options)), old_rewards("errors")
    assert {prompt for prompt in now if now[prompt] != before[prompt]} == {"p00", "p02", "p10"}
    assert now["p00"] == [6, 5, 6]


def test_a_retried_old_run_is_retried_again(server: Bucket, embedded_ray: None) -> None:
    put_back(server, "retried")
    manifest = retry("s3://bucket/retried", [*storage(server), "scorer.settings.words=[]"], allow_changed=True)
    assert manifest.counts["statuses"] == {"": {"ok": 33}}
    assert manifest.generation is not None
    assert [(source.generation, source.groups) for source in manifest.generation.sources] == [(1, 8), (2, 1), (3, 2)]


def test_a_row_of_an_old_run_that_was_mended_is_scored_in_a_retry(
    server: Bucket, checkpoints: list[str], embedded_ray: None
) -> None:
    put_back(server, "polar")
    torn, whole = b'{"prompt_id": "torn", "prompt": [{"role": "us\n', below("bucket/in")["groups/a.jsonl"]
    assert torn in whole
    mended = {"prompt_id": "torn", "prompt": "Where?", "reference": "Here.", "candidates": ["Here.", "There."]}
    server.put("in/groups/a.jsonl", whole.replace(torn, json.dumps(mended).encode() + b"\n"))
    manifest = retry("s3://bucket/polar", [*storage(server), *overrides_of("polar", checkpoints)])
    assert manifest.generation is not None
    assert [(source.generation, source.groups) for source in manifest.generation.sources] == [(1, 11), (2, 1)]
    now = rewards(read_scores("s3://bucket/polar", storage_options=server.options))
    assert len(now.pop("torn")) == 2
    assert now == old_rewards("polar")


def test_an_old_curation_has_nothing_to_do_until_there_is_a_new_shard(server: Bucket, embedded_ray: None) -> None:
    put_back(server, "curated")
    watched = curation(server.options, "curated")
    assert Curation(watched, clock=lambda: CLOCK + 7200).tick().kind == "nothing"
    server.put("in/watched/c.jsonl", below("bucket/in")["later/c.jsonl"])
    set_modified(server)
    assert Curation(watched, clock=lambda: CLOCK + 10800).tick().kind == "published"
    latest = latest_version("s3://bucket/curated")
    now = rewards(read_scores(f"{latest}/table", storage_options=server.options))
    assert sorted(now) == [f"p{number:02d}" for number in range(8)]
    # The prompts are those of the run over all of them, by the same scorer.
    assert now == {prompt: values for prompt, values in old_rewards("closeness").items() if prompt in now}


def test_an_old_curation_whose_scorer_is_set_otherwise_publishes_nothing(server: Bucket) -> None:
    put_back(server, "curated")
    policy = "derive.pairs.pairs.min_margin=0.02"
    changed = curation(server.options, "curated", policy, "scorer.references=mean")
    with pytest.raises(ScorerChanged, match=r"set otherwise \(scorer\.references\) than when the 2 shards"):
        Curation(changed, clock=lambda: CLOCK + 7200).tick()
    assert json.loads(server.get("curated/latest.json"))["version"] == place("{latest}")
    # A setting that came later is at its default, and another policy is no other scorer.
    same = curation(server.options, "curated", policy, "scorer.group_timeout_s=30")
    assert Curation(same, clock=lambda: CLOCK + 10800).tick().kind == "published"


def test_an_old_curation_makes_no_version_because_there_are_more_settings_now(server: Bucket) -> None:
    put_back(server, "curated")
    state = server.names("curated/_curate/state/")[-1]
    server.put(state, server.get(state).replace(json.loads(server.get(state))["datasets"].encode(), b"other"))
    without_settings(server, f"curated/versions/{place('{latest}')}/pairs/manifest.json", *LATER)
    watched = curation(server.options, "curated")
    assert Curation(watched, clock=lambda: CLOCK + 7200).tick().kind == "nothing"


def test_a_tick_of_an_old_curation_that_was_interrupted_is_finished(server: Bucket, embedded_ray: None) -> None:
    put_back(server, "curated_half")
    states = [name for name in below("bucket/curated_half") if name.startswith("_curate/state/")]
    pending = json.loads(below("bucket/curated_half")[max(states)])["pending"]
    assert list(pending["shards"]) == ["s3://bucket/in/watched/b.jsonl"]
    outcome = Curation(curation(server.options, "curated_half"), clock=lambda: CLOCK + 7200).tick()
    assert (outcome.kind, outcome.version) == ("published", pending["tick"])
    assert json.loads(server.get("curated_half/latest.json"))["version"] == pending["tick"]
    latest = latest_version("s3://bucket/curated_half")
    now = rewards(read_scores(f"{latest}/table", storage_options=server.options))
    assert now == {prompt: values for prompt, values in old_rewards("closeness").items() if prompt in now}
    assert len(now) == 5


def test_an_old_run_on_local_files_counts_as_finished_or_is_resumed(tmp_path: Path, embedded_ray: None) -> None:
    put_local(tmp_path)
    told = Listening()

    def again() -> Manifest:
        wanted = recipe(tmp_path / "in", tmp_path / "out", "input.split_rows=3", name=RECIPES["local"]["name"])
        return run(wanted, reporter=told)

    expected, old = score_table(tmp_path / "out"), again()
    assert any("finished; nothing to do" in line for line in told.said)
    for gone in ("manifest.json", *(f"_run/commits/0000{split}.json" for split in ("0-00001", "1-00000", "1-00001"))):
        (tmp_path / "out" / gone).unlink()
    (tmp_path / "out" / "scores" / "part-00000-00001.parquet").unlink()
    manifest = again()
    assert manifest.resumed_splits == 3
    assert score_table(tmp_path / "out").equals(expected)
    assert manifest.conservation == old.conservation
    assert {path.stat().st_mtime for path in (tmp_path / "in").iterdir()} == {MODIFIED}
