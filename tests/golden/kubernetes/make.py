"""Cuts the published schemas down to what the manifests in jobs/kubernetes use.

python make.py KUBERAY KUBERNETES

KUBERAY is a folder with ray.io_rayjobs.yaml and ray.io_raycronjobs.yaml (ray-operator/config/crd/bases in
ray-project/kuberay at v1.7.0); KUBERNETES is the folder v1.37.0-local-strict of the package kubernetes-validate 1.37.0
(kubernetes_validate/kubernetes-json-schema). Of every object that a manifest uses, all names of properties stay; what
no manifest uses becomes a schema that nothing fits, so that using it later means running this again.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
MANIFESTS = HERE.parents[2] / "jobs" / "kubernetes"
UNUSED = {"not": {}}


def pruned(schema: dict[str, Any], value: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """Returns what a schema says of a value's parts, without descriptions and references."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[-1]]
    kept = {key: part for key, part in schema.items() if key not in ("description", "properties", "items")}
    if "properties" in schema and isinstance(value, dict):
        kept["properties"] = {
            name: pruned(part, value[name], definitions) if name in value else UNUSED
            for name, part in schema["properties"].items()
        }
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            # The API server refuses unknown fields of a custom resource as it does those of its own.
            kept["additionalProperties"] = False
    if isinstance(schema.get("additionalProperties"), dict) and isinstance(value, dict):
        kept["additionalProperties"] = merged(schema["additionalProperties"], list(value.values()), definitions)
    if "items" in schema and isinstance(value, list):
        kept["items"] = merged(schema["items"], value, definitions)
    return kept


def merged(schema: dict[str, Any], values: list[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Returns what a schema says of several values; the manifests' lists have one element or plain ones."""
    assert len(values) <= 1 or not any(isinstance(value, dict | list) for value in values)
    return pruned(schema, values[0] if values else None, definitions)


def custom_resource(path: Path) -> dict[str, Any]:
    """Returns the schema of the stored version of a custom resource, with the fields that every object has."""
    (version,) = [each for each in yaml.safe_load(path.read_text())["spec"]["versions"] if each["name"] == "v1"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object", "properties": {"name": {"type": "string"}}}
    return schema


def main(kuberay: Path, kubernetes: Path) -> None:
    definitions = json.loads((kubernetes / "_definitions.json").read_text())["$defs"]
    schemas = {
        "rayjob": custom_resource(kuberay / "ray.io_rayjobs.yaml"),
        "raycronjob": custom_resource(kuberay / "ray.io_raycronjobs.yaml"),
        "cronjob": json.loads((kubernetes / "cronjob-batch-v1.json").read_text()),
    }
    for name, schema in schemas.items():
        manifest = yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text())
        text = json.dumps(pruned(schema, manifest, definitions), indent=1, sort_keys=True)
        (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
