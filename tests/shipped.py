"""What the manifests for Kubernetes and the units for systemd run, taken from the files that ship."""

import configparser
import shlex
from typing import Any

import yaml
from runs import TESTS

ROOT = TESTS.parent
MANIFESTS = ROOT / "jobs" / "kubernetes"


def manifest(name: str) -> dict[str, Any]:
    """Returns a manifest."""
    found: dict[str, Any] = yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def unit(name: str) -> configparser.ConfigParser:
    """Returns a unit of systemd."""
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((ROOT / "jobs" / "systemd" / name).read_text(encoding="utf-8"))
    return parser


def container() -> dict[str, Any]:
    """Returns the container of the CronJob."""
    found: dict[str, Any] = manifest("cronjob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    return found


def commands() -> dict[str, list[str]]:
    """Returns the command of polar_ray that each manifest and unit runs."""
    return {
        "rayjob": shlex.split(manifest("rayjob")["spec"]["entrypoint"]),
        "raycronjob": shlex.split(manifest("raycronjob")["spec"]["jobTemplate"]["entrypoint"]),
        "cronjob": container()["args"],
        "systemd": shlex.split(unit("polar-ray-curate.service")["Service"]["ExecStart"]),
    }
