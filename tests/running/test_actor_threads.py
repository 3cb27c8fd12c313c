"""A scoring actor's CPUs become the threads of its model, and all actors of a run pack alike."""

from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
import ray
from ray.data import ActorPoolStrategy

from polar_ray.recipe.recipe import Recipe
from polar_ray.running.attempts import start_attempt_log
from polar_ray.running.scoring import Score
from polar_ray.scorers.catalog import fingerprint_of
from polar_ray.scorers.reward_model import RewardModelScorer

MODEL = Path(__file__).parents[1] / "golden" / "polar" / "polar_tiny_a"


class Counting(Score):
    """Says how many threads there are, in place of scoring. tests/engine/test_threads.py says what follows from it."""

    def __call__(self, block: pa.Table) -> Any:
        import torch

        budget = cast(RewardModelScorer, self._scorer).engine.token_budget
        yield pa.table({"threads": [torch.get_num_threads()], "budget": [budget]})


@pytest.mark.usefixtures("embedded_ray")
def test_a_model_has_as_many_threads_as_its_actor_was_given_and_the_budget_of_the_runs_first_actor() -> None:
    scorer = {"kind": "polar", "model": str(MODEL), "dtype": "float32", "device": "cpu", "self_check": "numeric"}
    config = Recipe.of({"input": {"path": "x"}, "scorer": scorer, "output": {"path": "y"}}).scorer
    assert config is not None
    attempts = start_attempt_log()
    assert ray.get(attempts.agree.remote("default", 512)) == 512
    arguments = {
        "name": "default",
        "config": config,
        "fingerprint": fingerprint_of(config),
        "attempts": attempts,
        "max_attempts": 2,
        "threads": 3,
        "ranks": 1,
    }
    counted = ray.data.range(1).map_batches(
        Counting,
        fn_constructor_kwargs=arguments,
        compute=ActorPoolStrategy(size=1),
        num_cpus=1,
        batch_size=None,
        batch_format="pyarrow",
    )
    assert counted.take_all() == [{"threads": 3, "budget": 512}]
