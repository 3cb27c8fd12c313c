"""A cluster of Ray's own autoscaler that has no GPU until it is asked for one."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import ray
from clusters import cluster, free_port
from conftest import rows, write_jsonl
from processes import polar_ray
from runs import TINY_POLAR

HEAD = "f" * 51 + "00000"
"""The id that Ray's provider of pretended nodes takes the head to have."""
EMPTY = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)
"""What the first version wants to be told, though nothing of it is used here."""
GPU_NODE = {"CPU": 2, "GPU": 1, "object_store_memory": 10**8}
SECOND = {
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD,
    # As KubeRay and Ray's cluster launcher set it; without it the head counts as a node that somebody started by hand.
    "RAY_NODE_TYPE_NAME": "ray.head.default",
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
}
"""What makes an autoscaler one of the second version."""


def configuration(port: int) -> dict[str, object]:
    provider = {
        # Ray's kind "fake_multinode" wants an example file that its wheels do not have.
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": HEAD,
        "gcs_address": f"{ray.util.get_node_ip_address()}:{port}",
    }
    return {
        "cluster_name": "pretended",
        "provider": provider,
        "max_workers": 1,
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 1,
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in EMPTY},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": GPU_NODE, "node_config": {}, "min_workers": 0, "max_workers": 1},
        },
    }


@pytest.mark.slow
@pytest.mark.parametrize("version", [{}, SECOND])
def test_a_run_waits_for_the_gpu_node_that_the_autoscaler_brings_and_for_none_that_it_cannot(
    version: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    (tmp_path / "scaling.json").write_text(json.dumps(configuration(port)))
    options = (f"--port={port}", f"--autoscaling-config={tmp_path / 'scaling.json'}", "--num-cpus=2", "--num-gpus=0")
    scorer = {name: value for name, value in TINY_POLAR.items() if name != "device"}
    data = write_jsonl(tmp_path / "in.jsonl", rows(5))
    parts = {"input": {"path": str(data)}, "scorer": scorer, "output": {"path": str(tmp_path / "out")}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(parts))
    environment = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", **version}
    with cluster(*options, "--object-store-memory=100000000", environment=environment) as there:
        command = polar_ray("run", str(tmp_path / "recipe.yaml"), f"compute.address={there.address}")
        more = subprocess.run(
            [*command, "compute.gpus_per_actor=2"],
            env={**os.environ, **there.environment},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert "ClusterTooSmall" in more.stderr
        assert "is bringing nodes" not in more.stderr
        done = subprocess.run(
            command, env={**os.environ, **there.environment}, capture_output=True, text=True, timeout=240, check=False
        )
    # Where the node comes within moments, the autoscaler is not seen to bring it.
    assert "waiting up to 20 s for the autoscaler to bring nodes" in done.stderr
    assert done.returncode == 0, done.stderr
    assert "5 groups, 15 candidates from 5 rows" in done.stdout
