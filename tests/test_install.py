"""What the README says of installing: a wheel of the checkout in an environment of its own, beside the recipes."""

import os
import re
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import polar_ray

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of what is in the checkout."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("polar_ray", "pipelines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    build = [sys.executable, "-c", "from hatchling.build import build_wheel; print(build_wheel('dist'))"]
    ran = subprocess.run(build, cwd=folder, capture_output=True, text=True, check=True)
    return folder / "dist" / ran.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and with the packages that it needs from the environment of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    [packages] = folder.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path in site.getsitepackages() or path.endswith("site-packages")]
    (packages / "needed.pth").write_text("\n".join(others))
    # As an installer does: the files of the wheel, and the command that its metadata names.
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(packages)
        [entry] = [name for name in packed.namelist() if name.endswith("entry_points.txt")]
        named = re.search(r"^polar-ray = ([\w.]+):(\w+)$", packed.read(entry).decode(), re.MULTILINE)
    assert named is not None
    script = folder / "bin" / "polar-ray"
    script.write_text(f"#!{folder}/bin/python\nfrom {named[1]} import {named[2]}\n{named[2]}()\n")
    script.chmod(0o755)
    return folder


def run(installed: Path, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(installed / "bin" / "polar-ray"), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"polar_ray", f"polar_ray-{polar_ray.__version__}.dist-info"}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "polar_ray").rglob("*") if path.is_file()}
    assert {name for name in sources if "__pycache__" not in name} <= set(names)


@pytest.mark.slow
def test_the_installed_command_helps_tells_its_environment_and_plans_a_shipped_recipe(
    installed: Path, tmp_path: Path
) -> None:
    shown = run(installed, tmp_path, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "curate" in shown.stdout
    told = run(installed, tmp_path, "env")
    assert told.returncode == 0, told.stderr
    assert re.search(rf"^polar-ray +{re.escape(polar_ray.__version__)}", told.stdout, re.MULTILINE), told.stdout
    where = [str(installed / "bin" / "python"), "-c", "import polar_ray; print(polar_ray.__file__)"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(installed)
    # Recipes come with the checkout, as the README says, and not with the package.
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines")
    planned = run(installed, tmp_path, "plan", "pipelines/demo.yaml")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.endswith("nothing was written\n")
