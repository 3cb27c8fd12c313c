"""A model spread over two devices, in the whole job. Ray is told of GPUs that are not there, so the CPU stands in."""

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from clusters import Cluster, cluster
from conftest import rows, write_jsonl
from processes import command, commits, kill, polar_ray, wait_for, workers
from runs import TINY_POLAR, recipe, score_table

GROUPS = 60


def ranks() -> list[psutil.Process]:
    found = []
    for process in workers():
        try:
            words = process.cmdline()
        except psutil.Error:
            # It ended while it was looked at.
            continue
        if "polar_ray.engine.rank" in " ".join(words):
            found.append(process)
    return found


@pytest.mark.skipif(torch.cuda.is_available(), reason="would run on the devices")
@pytest.mark.slow
def test_an_actor_whose_rank_is_killed_is_replaced_and_the_scores_are_those_of_one_device(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "in.jsonl", rows(GROUPS))
    with cluster("--num-cpus=4", "--num-gpus=2") as started:
        one = scored(started, data, tmp_path / "one", gpus=1)
        two = scored(started, data, tmp_path / "two", gpus=2, kills=True)
    assert ranks() == []
    assert {status for row in two.column("status").to_pylist() for status in row} == {"ok"}
    rewards = [np.concatenate(table.column("reward").to_pylist()) for table in (one, two)]
    assert len(rewards[0]) == 3 * GROUPS
    np.testing.assert_allclose(rewards[1], rewards[0], atol=1e-5, rtol=0)


def scored(started: Cluster, data: Path, output: Path, *, gpus: int, kills: bool = False):  # type: ignore[no-untyped-def]
    """Runs the job, and returns its score table; may kill the other rank when the first split is there."""
    settings = [f"compute={{address: {started.address}, gpus_per_actor: {gpus}}}", "input.split_rows=1"]
    job = recipe(data, output, *settings, scorer={**TINY_POLAR, "device": "auto"})
    (output.parent / f"{output.name}.yaml").write_text(job.to_yaml())
    arguments = polar_ray("run", str(output.parent / f"{output.name}.yaml"))
    with command(arguments, output.parent / f"{output.name}.log", started.environment) as run:
        if kills:
            wait_for("the first split", lambda: commits(output) > 0 or run.popen.poll() is not None)
            victims = ranks()
            assert len(victims) == 1, run.output
            kill(victims)
        assert run.wait() == 0, run.output
    return score_table(output)
