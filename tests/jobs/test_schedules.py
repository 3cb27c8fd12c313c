"""The manifests and units that ship: they fit the published schemas, and what they call is there."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cronsim import CronSim
from runs import TESTS
from shipped import MANIFESTS, ROOT, commands, manifest, unit

from polar_ray.recipe.curate import CurateRecipe
from polar_ray.recipe.recipe import Recipe

SCHEMAS = TESTS / "golden" / "kubernetes"
NAMES = ("rayjob", "raycronjob", "cronjob")


def problems(name: str, document: dict[str, Any]) -> list[str]:
    """Returns where a document does not fit the published schema of its kind."""
    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    return [error.json_path for error in validator.iter_errors(document)]


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_fits_the_published_schema(name: str) -> None:
    assert problems(name, manifest(name)) == []


@pytest.mark.parametrize(
    ("name", "change", "where"),
    [
        ("rayjob", ("spec", "entrypont"), "$.spec"),
        ("rayjob", ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "restart"), "$.spec.rayClusterSpec"),
        # A CronJob has it, a RayCronJob of KubeRay 1.7 has not.
        ("raycronjob", ("spec", "concurrencyPolicy"), "$.spec"),
        ("cronjob", ("spec", "jobTemplate", "spec", "template", "spec", "imagePullSecret"), "$.spec.jobTemplate.spec"),
    ],
)
def test_a_field_that_is_none_would_be_found(name: str, change: tuple[str, ...], where: str) -> None:
    document = copy.deepcopy(manifest(name))
    node = document
    for key in change[:-1]:
        node = node[key]
    node[change[-1]] = "x"
    (found,) = problems(name, document)
    assert found.startswith(where)


def test_a_value_of_the_wrong_type_would_be_found() -> None:
    document = manifest("rayjob")
    document["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    assert problems("rayjob", document) == ["$.spec.rayClusterSpec.headGroupSpec.rayStartParams['num-cpus']"]


@pytest.mark.parametrize("name", ["rayjob", "raycronjob", "cronjob", "systemd"])
def test_what_is_called_is_a_command_with_a_shipped_recipe_and_overrides_that_fit(name: str) -> None:
    program, command, recipe, *overrides = commands()[name]
    assert Path(program).name == "polar-ray"
    shipped = ROOT / "pipelines" / Path(recipe).name
    kind = {"run": Recipe, "curate": CurateRecipe}[command]
    kind.load(str(shipped), overrides)


@pytest.mark.parametrize("name", ["raycronjob", "cronjob"])
def test_a_schedule_is_three_o_clock_in_the_night(name: str) -> None:
    from datetime import datetime, timezone

    spec = manifest(name)["spec"]
    assert spec["timeZone"] == "Etc/UTC"
    ticks = CronSim(spec["schedule"], datetime(2026, 11, 20, 12, tzinfo=timezone.utc))
    assert next(ticks) == datetime(2026, 11, 21, 3, tzinfo=timezone.utc)


def test_rays_version_is_that_of_the_image() -> None:
    image = next(line for line in (MANIFESTS / "Dockerfile").read_text().splitlines() if line.startswith("FROM "))
    assert image.startswith("FROM rayproject/ray:2.60.0-")
    for spec in (manifest("rayjob")["spec"], manifest("raycronjob")["spec"]["jobTemplate"]):
        assert spec["rayClusterSpec"]["rayVersion"] == "2.60.0"


def test_the_timer_starts_the_service_of_its_name() -> None:
    timer = unit("polar-ray-curate.timer")
    assert timer["Timer"]["OnCalendar"] == "*-*-* 03:00:00 UTC"
    assert timer["Install"]["WantedBy"] == "timers.target"
    assert "Unit" not in timer["Timer"]
    assert unit("polar-ray-curate.service")["Service"]["Type"] == "oneshot"
