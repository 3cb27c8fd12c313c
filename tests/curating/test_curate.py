"""Tick by tick: each shard is scored once as it is now, and each version holds exactly the current shards."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import rows, write_jsonl, write_parquet
from runs import files_below

from polar_ray.curating.tick import Curation, Outcome
from polar_ray.curating.versions import latest_version
from polar_ray.data.scores import read_scores
from polar_ray.errors import InputError, LeaseLost, NoFolder, PolarRayError, RecipeError, ScorerChanged
from polar_ray.recipe.curate import CurateRecipe
from polar_ray.running.folder import RunFolder
from polar_ray.running.manifest import read_manifest
from polar_ray.running.retry import retry

HOUR = 3600.0


def shard(first: int, groups: int = 3, extra: int = 0) -> list[dict[str, Any]]:
    """Groups from a number on; each candidate has ``extra`` characters more than ``rows`` gives it."""
    made = rows(first + groups)[first:]
    for group in made:
        for candidate in group["candidates"]:
            candidate["messages"][0]["content"] += "y" * extra
    return made


class Landing:
    """A folder into which shards are written, a curation of it, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.inputs = folder / "in"
        self.inputs.mkdir(parents=True)
        self.out = folder / "out"
        self.now = time.time()
        self.settings = {"mended": str(folder / "mended"), "diary": str(folder / "diary")}
        (folder / "mended").touch()
        self.folder = folder

    def recipe(self, *overrides: str) -> CurateRecipe:
        data = {
            "name": "watched",
            "input": {"path": str(self.inputs), "split_rows": 2},
            "scorer": {
                "kind": "custom",
                "target": "faulty:Flaky",
                "settings": self.settings,
                "public": ["mended", "diary"],
            },
            "derive": {
                "pairs": {
                    "pairs": {"min_margin": 1.5},
                    "export": {"kind": "trl_preference"},
                    "files": {"validation": 0.0},
                },
                "best": {"best_of_n": {"top_k": 1}, "export": {"kind": "ids"}},
            },
            "keep": {"versions": 2, "grace_h": 1},
            "output": {"path": str(self.out)},
        }
        return CurateRecipe.of(data, list(overrides))

    def tick(self, *overrides: str) -> Outcome:
        """An hour later, one tick."""
        self.now += HOUR
        return Curation(self.recipe(*overrides), clock=lambda: self.now).tick()

    def scored(self) -> list[str]:
        """The prompts that were scored since the last look, sorted."""
        diary = Path(self.settings["diary"])
        prompts = sorted(diary.read_text().splitlines()) if diary.exists() else []
        diary.unlink(missing_ok=True)
        return prompts

    def latest(self) -> Path:
        return Path(latest_version(str(self.out)))

    def rewards(self) -> dict[str, list[float]]:
        """The latest version's score table, read with pyarrow alone."""
        table = self.latest() / "table"
        parts = json.loads((table / "scores.json").read_text())["parts"]
        found: dict[str, list[float]] = {}
        for part in parts:
            path = table / part["path"]
            assert path.stat().st_size == part["size"]
            for row in pq.read_table(path).to_pylist():
                assert row["prompt_id"] not in found
                found[row["prompt_id"]] = row["reward"]
        return found


def rewards_of(*numbers: int, extra: int = 0) -> dict[str, list[float]]:
    return {f"p{n:04d}": [float(10 * n + candidate + extra) for candidate in range(3)] for n in numbers}


def questions(*numbers: int) -> list[str]:
    return sorted(f"question {number}" for number in numbers)


@pytest.fixture(scope="module")
def landing(tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Landing:
    """The tests of this module are one story in several chapters."""
    return Landing(tmp_path_factory.mktemp("curate"))


def test_before_the_first_shard_there_is_nothing_to_do(landing: Landing) -> None:
    outcome = landing.tick()
    assert (outcome.kind, outcome.text) == ("nothing", f"no shards in {landing.inputs} yet: nothing to do")
    landing.inputs.rmdir()
    # A clock must not find everything well for ever where a path is wrong, or a file system not mounted.
    with pytest.raises(NoFolder, match=f"there is no {landing.inputs}\\. Check input.path"):
        landing.tick()
    landing.inputs.mkdir()
    assert not landing.out.exists()


def test_the_first_tick_scores_all_shards_and_publishes_a_version(landing: Landing) -> None:
    write_jsonl(landing.inputs / "a.jsonl", shard(0))
    write_parquet(landing.inputs / "b.parquet", shard(10))
    outcome = landing.tick()
    assert outcome.kind == "published"
    assert landing.scored() == questions(0, 1, 2, 10, 11, 12)
    assert landing.rewards() == rewards_of(0, 1, 2, 10, 11, 12)
    latest = landing.latest()
    assert outcome.version == latest.name == time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime(landing.now))
    pairs = [json.loads(line) for line in (latest / "pairs/data/train/part-00000.jsonl").read_text().splitlines()]
    # One of the first group's candidates is empty, and the other two are too close.
    assert len(pairs) == 5
    assert all(len(pair["chosen"][0]["content"]) == len(pair["rejected"][0]["content"]) + 2 for pair in pairs)
    version = json.loads((latest / "version.json").read_text())
    assert version["new"] == [f"{landing.inputs}/a.jsonl", f"{landing.inputs}/b.parquet"]
    assert (version["shards"], version["groups"], version["candidates"]) == (2, 6, 18)
    assert version["datasets"] == {"pairs": 5, "best": 6}


def test_the_table_of_a_version_opens_like_that_of_a_run(landing: Landing) -> None:
    table = str(landing.latest() / "table")
    assert read_scores(table, columns=["prompt_id"])["prompt_id"].to_pylist() == sorted(landing.rewards())
    manifest = read_manifest(RunFolder.of(table))
    assert manifest.conservation == {"rows_read": 6, "rows_in_groups": 6, "dead_letters": 0, "drops": 0, "holds": True}
    assert manifest.counts["statuses"] == {"": {"ok": 18}}
    with pytest.raises(PolarRayError, match="whose parts belong to several runs; retry those"):
        retry(table)


def test_a_folder_that_was_moved_still_opens(landing: Landing, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    landing.out.rename(moved)
    try:
        assert read_scores(f"{latest_version(str(moved))}/table").num_rows == 6
    finally:
        moved.rename(landing.out)


def test_with_nothing_new_a_tick_is_over_at_once_without_ray_or_a_model(landing: Landing) -> None:
    before = {name: (landing.out / name).stat().st_mtime_ns for name in files_below(landing.out)}
    recipe = landing.folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(json.loads(landing.recipe().model_dump_json())))
    code = (
        "import sys; from polar_ray.cli import main; sys.argv = ['polar-ray', 'curate', sys.argv[1]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print(sorted({'ray', 'torch', 'transformers'} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(recipe)], capture_output=True, text=True, check=True)
    latest = landing.latest().name
    assert result.stdout == f"no new shards: nothing to do; the latest version is {latest}\n[]\n"
    assert {name: (landing.out / name).stat().st_mtime_ns for name in files_below(landing.out)} == before


def test_a_tick_in_a_submitted_job_does_as_elsewhere(landing: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert landing.tick().text == f"no new shards: nothing to do; the latest version is {landing.latest().name}"
    with pytest.raises(RecipeError, match=r"input\.path gens/ is a relative path, .* another one for each job"):
        landing.recipe("input.path=gens/")


def test_late_and_rewritten_shards_are_scored_and_replace_their_earlier_version(landing: Landing) -> None:
    # A late one: its name and its time are before those that are done.
    write_jsonl(landing.inputs / "_early" / "x.jsonl", shard(90))  # a marker's folder, which is passed over
    write_jsonl(landing.inputs / "Aa.jsonl", shard(20, groups=1))
    os.utime(landing.inputs / "Aa.jsonl", (1.0, 1.0))
    write_jsonl(landing.inputs / "a.jsonl", shard(0, groups=2, extra=5))
    first = landing.latest()
    outcome = landing.tick()
    assert outcome.kind == "published"
    assert landing.scored() == questions(0, 1, 20)
    assert landing.rewards() == {**rewards_of(0, 1, extra=5), **rewards_of(10, 11, 12, 20)}
    assert json.loads((landing.latest() / "version.json").read_text())["datasets"] == {"pairs": 6, "best": 6}
    # What readers of the first version have open is still there.
    assert json.loads((first / "version.json").read_text())["groups"] == 6
    assert (first / "pairs/data/train/part-00000.jsonl").exists()


def test_another_policy_makes_a_version_without_scoring(landing: Landing) -> None:
    outcome = landing.tick("derive.pairs.pairs.min_margin=2.5")
    assert outcome.kind == "published"
    assert landing.scored() == []
    assert json.loads((landing.latest() / "version.json").read_text())["datasets"] == {"pairs": 0, "best": 6}


def test_old_versions_and_the_runs_that_only_they_need_expire(landing: Landing) -> None:
    # There are three versions by now, of which two are kept; the first was replaced more than an hour ago.
    versions = sorted(path.name for path in (landing.out / "versions").iterdir())
    runs = sorted(path.name for path in (landing.out / "runs").iterdir())
    assert (len(versions), len(runs)) == (3, 2)
    write_parquet(landing.inputs / "b.parquet", shard(10, groups=1))
    assert landing.tick().kind == "published"
    assert landing.scored() == questions(10)
    kept = sorted(path.name for path in (landing.out / "versions").iterdir())
    assert kept == [*versions[1:], landing.latest().name]
    # The first run's last shard was replaced, but versions that are kept still name its parts.
    landing.now += 2 * HOUR
    assert landing.tick().kind == "nothing"
    assert sorted(path.name for path in (landing.out / "versions").iterdir()) == kept[1:]
    write_jsonl(landing.inputs / "c.jsonl", shard(30, groups=1))
    assert landing.tick().kind == "published"
    landing.now += 2 * HOUR
    assert landing.tick().kind == "nothing"
    assert runs[0] not in [path.name for path in (landing.out / "runs").iterdir()]
    landing.scored()
    assert landing.rewards() == {**rewards_of(0, 1, extra=5), **rewards_of(10, 20, 30)}


def test_what_a_retry_of_a_ticks_run_gives_comes_into_the_next_version(landing: Landing) -> None:
    (landing.folder / "mended").unlink()
    bad = shard(40, groups=2)
    bad[1]["prompt"][0]["content"] = "bad 41"
    write_jsonl(landing.inputs / "d.jsonl", bad)
    run = landing.out / "runs" / str(landing.tick().version)
    assert landing.rewards()["p0041"] == [None, None, None]
    (landing.folder / "mended").touch()
    landing.scored()
    retry(str(run))
    assert landing.scored() == ["bad 41"]
    outcome = landing.tick()
    assert outcome.kind == "published"
    assert landing.rewards() == {**rewards_of(0, 1, extra=5), **rewards_of(10, 20, 30, 40, 41)}
    assert landing.tick().kind == "nothing"


def test_a_tick_that_fails_loses_nothing_and_the_next_one_catches_up(landing: Landing) -> None:
    before = landing.latest()
    write_jsonl(landing.inputs / "e.jsonl", [{**row, "candidates": []} for row in shard(50, groups=1)])
    with pytest.raises(PolarRayError, match="1 of the 1 rows read became dead letters"):
        landing.tick()
    assert landing.latest() == before
    write_jsonl(landing.inputs / "f.jsonl", shard(60, groups=1))
    write_jsonl(landing.inputs / "e.jsonl", shard(50, groups=1))
    landing.scored()
    assert landing.tick().kind == "published"
    assert landing.scored() == questions(50, 60)
    assert landing.rewards() == {**rewards_of(0, 1, extra=5), **rewards_of(10, 20, 30, 40, 41, 50, 60)}
    assert landing.tick().kind == "nothing"


def test_a_shard_with_other_columns_is_refused_before_anything_is_begun(landing: Landing) -> None:
    before, runs = landing.latest(), sorted((landing.out / "runs").iterdir())
    write_jsonl(landing.inputs / "g.jsonl", [{"prompt": "x", "outputs": ["y"]}])
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"g\.jsonl: no column `candidates`; .*; set input.columns.candidates=outputs"
        ):
            landing.tick()
    assert (landing.latest(), sorted((landing.out / "runs").iterdir())) == (before, runs)
    (landing.inputs / "g.jsonl").unlink()
    assert landing.tick().kind == "nothing"


def test_a_dataset_that_cannot_be_derived_is_refused_before_anything_is_scored(landing: Landing) -> None:
    before = landing.latest()
    write_jsonl(landing.inputs / "g.jsonl", shard(90, groups=1))
    landing.scored()
    with pytest.raises(RecipeError, match=r"derive\.pairs: the score table has no column 'error' of numbers"):
        landing.tick("derive.pairs.reward.uncertainty=error")
    assert (landing.latest(), landing.scored()) == (before, [])
    (landing.inputs / "g.jsonl").unlink()


def test_a_tick_that_lost_its_lease_does_not_begin_another_dataset(landing: Landing) -> None:
    write_jsonl(landing.inputs / "f2.jsonl", shard(65, groups=1))
    before = landing.latest()
    done = {path.parent.parent for path in landing.out.glob("versions/*/pairs/manifest.json")}
    landing.now += HOUR

    def clock() -> float:
        """Hours pass once the first dataset of a new version is there."""
        new = {path.parent.parent for path in landing.out.glob("versions/*/pairs/manifest.json")} - done
        return landing.now + (HOUR if new else 0)

    with pytest.raises(LeaseLost, match="nothing was published"):
        Curation(landing.recipe(), clock=clock).tick()
    [begun] = {path.parent.parent for path in landing.out.glob("versions/*/pairs/manifest.json")} - done
    # Its successor may have published that version by now.
    assert not (begun / "best").exists()
    assert landing.latest() == before
    assert landing.tick().kind == "published"
    assert landing.latest() == begun
    assert landing.rewards() == {**rewards_of(0, 1, extra=5), **rewards_of(10, 20, 30, 40, 41, 50, 60, 65)}
    landing.scored()


def test_a_pointer_that_was_not_moved_is_moved_by_the_next_tick(landing: Landing) -> None:
    latest = landing.latest()
    (landing.out / "latest.json").unlink()
    assert landing.tick().kind == "nothing"
    assert landing.latest() == latest


def test_rewards_of_two_scorers_do_not_come_into_one_version(landing: Landing) -> None:
    before, runs = landing.rewards(), sorted((landing.out / "runs").iterdir())
    write_jsonl(landing.inputs / "g.jsonl", shard(70, groups=1))
    with pytest.raises(ScorerChanged, match="do not compare; no version was published, and nothing was scored"):
        landing.tick("scorer={kind: length}")
    assert landing.rewards() == before
    # It was found before a run was begun.
    assert sorted((landing.out / "runs").iterdir()) == runs
    assert landing.tick().kind == "published"
    assert landing.rewards() == {**before, **rewards_of(70)}


def test_a_version_of_rewards_that_the_scorer_did_not_give_as_it_is_set_is_refused(landing: Landing) -> None:
    before = landing.latest()
    with pytest.raises(ScorerChanged, match="nothing new to score; no version was published: take back what changed"):
        landing.tick("scorer={kind: length}", "derive.pairs.pairs.min_margin=3.5")
    assert landing.latest() == before
    told = ". The scorer is set otherwise (scorer.kind) than when it was scored: take back"
    assert told in landing.tick("scorer={kind: length}").text
    assert landing.tick().text == f"no new shards: nothing to do; the latest version is {before.name}"


def test_a_version_of_the_ticks_own_shards(tmp_path: Path, embedded_ray: None) -> None:
    landing = Landing(tmp_path)
    for number in range(2):
        write_jsonl(landing.inputs / f"{number}.jsonl", shard(number, groups=1))
        assert landing.tick("over=tick").kind == "published"
        assert landing.rewards() == rewards_of(number)
    assert landing.tick("over=tick", "derive.pairs.seed=1").kind == "nothing"


def test_shards_that_are_too_young_wait(tmp_path: Path) -> None:
    landing = Landing(tmp_path)
    write_jsonl(landing.inputs / "a.jsonl", shard(0))
    landing.now -= HOUR
    assert landing.tick("min_age_s=60").kind == "nothing"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("input.layout=scattered", "write a prompt's candidates into one shard"),
        (
            "derive.pairs.pairs.min_margn=1",
            r"unknown key derive\.pairs\.pairs\.min_margn; did you mean derive\.pairs\.pairs\.min_margin\?",
        ),
        ("derive.table={best_of_n: {top_k: 1}}", r"derive\.table: the name must be"),
        ("keep.version=3", r"unknown key keep\.version; did you mean keep\.versions\?"),
        ("scorer=null", "give exactly one of scorer"),
    ],
)
def test_a_recipe_that_is_wrong_is_one_sentence(tmp_path: Path, override: str, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        Landing(tmp_path).recipe(override)


def test_the_shipped_recipe_is_valid() -> None:
    path = Path(__file__).parents[2] / "pipelines" / "curate_nightly.yaml"
    assert list(CurateRecipe.load(str(path)).derive) == ["pairs", "best"]
