"""Whether scorers are set as those were that scored the shards is told by the manifests of their runs."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from runs import TESTS, TINY_POLAR, recipe

from polar_ray.curating.mixture import set_otherwise
from polar_ray.curating.shards import run_folder
from polar_ray.curating.state import Shard, State
from polar_ray.data.storage import Storage
from polar_ray.recipe.curate import CurateRecipe
from polar_ray.recipe.scorers import Polar
from polar_ray.scorers.catalog import fingerprint_of

SHARD = Shard(identity={}, run="first", generation=1, file_index=0, splits=1, counts={})
STATE = State(shards={"in/a.jsonl": SHARD})


class Scored:
    """A curation whose only shard was scored by a tiny checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.model = folder / "model"
        shutil.copytree(TINY_POLAR["model"], self.model)
        self.scorer = {**TINY_POLAR, "model": str(self.model)}
        self.out = Storage.of(str(folder / "out"))
        self._folder = folder
        wanted = recipe(folder / "in", folder / "out", scorer=self.scorer)
        empty = ("stage_seconds", "versions")
        manifest: dict[str, Any] = {name: {} for name in empty}
        manifest["counts"] = dict.fromkeys(("groups", "candidates", "rows", "rows_in_groups", "splits"), 0)
        manifest["counts"] |= {name: {} for name in ("tokens", "statuses", "dead_letters", "drops")}
        manifest["conservation"] = {
            **dict.fromkeys(("rows_read", "rows_in_groups", "dead_letters", "drops"), 0),
            "holds": True,
        }
        manifest["throughput"] = {"candidates_per_s": 0.0, "tokens_per_s": 0.0}
        manifest |= dict.fromkeys(("duration_s", "scoring_s", "resumed_splits"), 0)
        manifest |= {"started": "", "finished": "", "inputs": [], "recipe": wanted.model_dump(mode="json")}
        manifest["fingerprints"] = {"": fingerprint_of(Polar.model_validate(self.scorer))}
        run = run_folder(self.out, "first", 1)
        run.storage.write_atomic(run.identity, b"{}")
        run.storage.write_atomic(run.manifest, msgspec.json.encode(manifest))

    def otherwise(self, **changes: Any) -> str | None:
        data = {
            "input": {"path": str(self._folder / "in")},
            "scorer": {**self.scorer, **changes},
            "derive": {"best": {"best_of_n": {"top_k": 1}}},
            "output": {"path": self.out.url},
        }
        return set_otherwise(self.out, CurateRecipe.of(data), STATE)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    return Scored(tmp_path_factory.mktemp("scored"))


def test_what_cannot_change_a_reward_is_no_other_setting(scored: Scored) -> None:
    assert scored.otherwise() is None
    known = [{"prompt": "a", "candidate": "b", "reward": 1}]
    assert scored.otherwise(token_budget=9, device="auto", self_check="order", known_scores=known) is None
    assert scored.otherwise(references="mean", dtype="bfloat16") == "scorer.dtype, scorer.references"


def test_a_checkpoint_that_was_moved_is_the_same_one(scored: Scored, tmp_path: Path) -> None:
    moved = shutil.copytree(scored.model, tmp_path / "moved")
    assert scored.otherwise(model=str(moved)) is None
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    assert scored.otherwise(model=str(moved)) == "scorer.model"


def test_a_checkpoint_that_is_not_here_may_be_another_one(scored: Scored, tmp_path: Path) -> None:
    assert scored.otherwise(model=str(TESTS / "golden" / "polar" / "polar_tiny_b")) == "scorer.model"
    assert scored.otherwise(model=str(tmp_path / "nowhere")) == "scorer.model"
    # Under its own name it need not be here.
    shutil.move(scored.model, tmp_path / "away")
    assert scored.otherwise() is None
    shutil.move(tmp_path / "away", scored.model)
