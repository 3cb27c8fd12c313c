"""Too many errors stop a run, the same command scores those again, and a retry answers for its own errors only."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import rows, write_jsonl
from runs import Listening, part_files, recipe, score_table

from polar_ray.errors import ScoringError
from polar_ray.recipe.recipe import Recipe
from polar_ray.running.retry import retry
from polar_ray.running.run import run

pytestmark = pytest.mark.usefixtures("embedded_ray")


class Judged:
    """Input of which every third prompt is bad for a scorer until that is mended; the scorer notes whom it scores."""

    def __init__(self, folder: Path, groups: int = 12, **config: Any) -> None:
        self.folder, self.out = folder, folder / "out"
        self._config = {"split_rows": 2, **config}
        data = rows(groups)
        for row in data[1::3]:
            row["prompt"][0]["content"] = f"bad {row['prompt_id']}"
        if config.get("layout") == "scattered":
            data = [
                {"prompt_id": row["prompt_id"], "prompt": row["prompt"], **candidate}
                for row in data
                for candidate in row["candidates"]
            ]
        write_jsonl(folder / "in.jsonl", data)

    def recipe(self, *overrides: str, output: str = "out") -> Recipe:
        settings = {"mended": str(self.folder / "mended"), "diary": str(self.folder / "diary")}
        return recipe(
            self.folder / "in.jsonl",
            self.folder / output,
            *overrides,
            input={"path": str(self.folder / "in.jsonl"), **self._config},
            scorer={"kind": "custom", "target": "faulty:Flaky", "settings": settings, "public": list(settings)},
        )

    def mend(self) -> None:
        (self.folder / "mended").touch()
        (self.folder / "diary").unlink()

    def diary(self) -> list[str]:
        """Prompts that were scored, sorted."""
        return sorted((self.folder / "diary").read_text().splitlines())

    def splits_with_errors(self) -> set[str]:
        return {
            path.stem
            for path in (self.out / "_run" / "commits").iterdir()
            if "error" in json.loads(path.read_text())["statuses"].get("", {})
        }


SAID = r"12 of the \d+ candidates so far .*Correct the cause and run the same command again, which keeps the rest"


def test_the_same_command_scores_them_again_once_the_cause_is_mended_and_keeps_the_rest(tmp_path: Path) -> None:
    judged = Judged(tmp_path)
    for _ in range(2):
        # As long as nothing is mended it ends as before.
        with pytest.raises(ScoringError, match=SAID):
            run(judged.recipe("limits.max_errors=11"))
    bad = judged.splits_with_errors()
    kept = {name: data for name, data in part_files(judged.out).items() if name[5:-8] not in bad}
    assert len(bad) == 4
    judged.mend()
    told = Listening()
    manifest = run(judged.recipe("limits.max_errors=11"), reporter=told)
    assert manifest.counts["statuses"] == {"": {"ok": 36}}
    assert "4 splits with errors, too many to go on with, are scored again" in told.said
    assert {f"bad p{number:04d}" for number in (1, 4, 7, 10)} <= set(judged.diary())
    parts = part_files(judged.out)
    assert {name: parts[name] for name in kept} == kept
    run(judged.recipe(output="fresh"))
    assert parts == part_files(tmp_path / "fresh")


def test_so_it_does_with_the_partitions_of_scattered_candidates(tmp_path: Path) -> None:
    judged = Judged(tmp_path, layout="scattered", split_bytes=2000)
    with pytest.raises(ScoringError, match=SAID):
        run(judged.recipe("limits.max_errors=11"))
    judged.mend()
    manifest = run(judged.recipe("limits.max_errors=11"))
    assert manifest.counts["statuses"] == {"": {"ok": 36}}
    assert manifest.conservation["rows_in_groups"] == 36


def test_a_run_without_one_reward_scores_all_of_it_again(tmp_path: Path) -> None:
    data = rows(4)
    for row in data:
        row["prompt"][0]["content"] = "bad"
    judged = Judged(tmp_path)
    write_jsonl(tmp_path / "in.jsonl", data)
    with pytest.raises(ScoringError, match=r"none of the 12 .* mostly error: .*run the same command again"):
        run(judged.recipe())
    judged.mend()
    assert run(judged.recipe()).counts["statuses"] == {"": {"ok": 12}}


def test_a_retry_whose_failures_persist_is_finished_whatever_the_limit_says_of_them(tmp_path: Path) -> None:
    judged = Judged(tmp_path)
    run(judged.recipe("limits.max_errors=12"))
    manifest = retry(str(judged.out), ["limits.max_errors=1"])
    assert manifest.counts["statuses"] == {"": {"error": 12, "ok": 24}}
    judged.mend()
    assert retry(str(judged.out), ["limits.max_errors=1"]).counts["statuses"] == {"": {"ok": 36}}


def test_a_run_that_was_begun_before_there_was_a_limit_is_finished_without_one(tmp_path: Path) -> None:
    judged = Judged(tmp_path, groups=120, split_rows=20)
    run(judged.recipe("limits.max_errors=0.9"))
    expected = score_table(judged.out)
    record = json.loads((judged.out / "_run" / "run.json").read_text())
    del record["limits_errors"]
    (judged.out / "_run" / "run.json").write_text(json.dumps(record))
    for name in ("manifest.json", "_run/commits/00000-00005.json", "scores/part-00000-00005.parquet"):
        (judged.out / name).unlink()
    # What is given now holds now.
    with pytest.raises(ScoringError, match=r"limits\.max_errors=0\.1 allows"):
        run(judged.recipe("limits.max_errors=0.1"))
    assert run(judged.recipe()).counts["statuses"] == {"": {"error": 120, "ok": 240}}
    assert score_table(judged.out).equals(expected)
