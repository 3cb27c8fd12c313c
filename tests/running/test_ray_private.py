"""What is taken of Ray beyond its public interface is in one file, is checked, and is bounded to tested versions."""

import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from packaging.requirements import Requirement
from packaging.version import Version

import polar_ray
from polar_ray.errors import RayChanged
from polar_ray.running.ray_private import check_ray, start_in

ROOT = Path(polar_ray.__file__).parent


def test_no_other_file_reaches_into_ray() -> None:
    reaching = [
        path.name
        for path in ROOT.rglob("*.py")
        if any(
            name in path.read_text("utf-8")
            for name in ("ray._private", "ray.data._internal", "_raylet", "_temp_dir", "internal_kv")
        )
    ]
    assert reaching == ["ray_private.py"]


def test_the_installed_ray_has_what_is_taken_of_it() -> None:
    check_ray()


def test_a_name_that_is_gone_is_told_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ray.data.Dataset, "_create_executor")
    with pytest.raises(RayChanged, match=rf"Ray {ray.__version__} is not .*Dataset\._create_executor is gone"):
        check_ray()


def test_a_module_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.data._internal.execution.streaming_executor", None)
    with pytest.raises(RayChanged, match=r"is not .*streaming_executor.*install a version that pyproject\.toml allows"):
        check_ray()


def test_another_signature_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def shutdown(self: Any, how: str) -> None: ...

    monkeypatch.setattr("ray.data._internal.execution.streaming_executor.StreamingExecutor.shutdown", shutdown)
    with pytest.raises(RayChanged, match=r"shutdown takes \['self', 'how'\], not \['self', 'force', 'exception'\]"):
        check_ray()


def test_a_ray_that_takes_no_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: Any) -> None:
        raise RuntimeError(f"Unknown keyword argument(s): {', '.join(key for key in settings if key[0] == '_')}")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RayChanged, match=r"ray\.init takes no _temp_dir"):
        start_in("/nowhere", num_cpus=1)


def test_the_version_is_bounded_to_the_one_that_the_tests_run_with() -> None:
    text = (ROOT.parent / "pyproject.toml").read_text("utf-8")
    bounds = [Requirement(line.strip().strip('",')) for line in text.splitlines() if line.strip().startswith('"ray[')]
    assert bounds
    installed = Version(ray.__version__)
    later = f"{installed.major}.{installed.minor + 1}.0"
    for bound in bounds:
        assert bound.specifier.contains(ray.__version__)
        assert not bound.specifier.contains(later)
