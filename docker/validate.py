# SPDX-License-Identifier: Apache-2.0
"""Validates the deployment files against the schemas of those who read them: `make validate`.

Kubernetes' own kinds: its schemas, from `kubernetes-validate`. Compose: its schema, from `check-jsonschema`. KServe's:
the names and types of its SDK's models, from `kserve`. LeaderWorkerSet, for which no package has a schema: the fields
of its API v1, below. Pod specs inside the latter two are Kubernetes' own, and are validated as such.
"""

import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import check_jsonschema.builtin_schemas as builtin
import jsonschema
import kubernetes_validate
import yaml

FOLDER = Path(__file__).parent
KUBERNETES = "1.34"
_LWS = {
    "spec": {"replicas", "leaderWorkerTemplate", "rolloutStrategy", "startupPolicy", "networkConfig"},
    "template": {"leaderTemplate", "workerTemplate", "size", "restartPolicy", "subGroupPolicy", "volumeClaimTemplates"},
    "startupPolicy": {"LeaderCreated", "LeaderReady"},
    "restartPolicy": {"RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"},
}
_NO_POD_SPEC = {"annotations", "labels", "supportedModelFormats", "protocolVersions", "multiModel", "disabled"}


def _has_kserve_models() -> None:
    """Makes KServe's models importable without its server, which would want many more packages."""
    for name in ("kserve", "kserve.models"):
        package = ModuleType(name)
        package.__path__ = [str(distribution("kserve").locate_file(name.replace(".", "/")))]
        sys.modules[name] = package


def main() -> int:
    """Prints every problem; returns the exit code."""
    _has_kserve_models()
    found = list(problems())
    print("\n".join(found) or "every file is valid")
    return 1 if found else 0


def problems() -> Iterator[str]:
    """What is wrong, with the file and the object it is in."""
    for path in sorted((FOLDER / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            check = {"LeaderWorkerSet": _of_lws, "ServingRuntime": _of_runtime, "InferenceService": _of_service}
            for problem in check.get(document["kind"], _of_kubernetes)(document):
                yield f"{path.name}: {document['kind']}: {problem}"
    schema = json.loads((Path(builtin.__file__).parent / "vendor/compose-spec.json").read_text())
    for path in sorted(FOLDER.glob("compose*.yaml")):
        for error in jsonschema.validators.validator_for(schema)(schema).iter_errors(yaml.safe_load(path.read_text())):
            yield f"{path.name}: {error.json_path}: {error.message}"


def _of_kubernetes(document: Mapping[str, Any]) -> Iterator[str]:
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message}"


def _of_pod(template: Mapping[str, Any]) -> Iterator[str]:
    yield from _of_kubernetes(
        {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
    )


def _of_lws(document: Mapping[str, Any]) -> Iterator[str]:
    spec = document["spec"]
    template = spec["leaderWorkerTemplate"]
    for where, given in (("spec", spec), ("template", template)):
        yield from (f"no such field: {name}" for name in given.keys() - _LWS[where])
    for name, given in (("startupPolicy", spec), ("restartPolicy", template)):
        if given[name] not in _LWS[name]:
            yield f"{name}: {given[name]}"
    yield from _of_pod(template["leaderTemplate"])
    yield from _of_pod(template["workerTemplate"])


def _of_runtime(document: Mapping[str, Any]) -> Iterator[str]:
    spec = document["spec"]
    yield from _of_model("V1alpha1ServingRuntimeSpec", spec)
    yield from _of_pod({"spec": {name: value for name, value in spec.items() if name not in _NO_POD_SPEC}})


def _of_service(document: Mapping[str, Any]) -> Iterator[str]:
    yield from _of_model("V1beta1InferenceServiceSpec", document["spec"])


def _of_model(name: str, given: Any, where: str = "spec") -> Iterator[str]:
    """Fields that KServe's model does not have, through all models inside it."""
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
    model = getattr(importlib.import_module(f"kserve.models.{words}"), name)
    types = {model.attribute_map[field]: kind for field, kind in model.openapi_types.items()}
    for field, value in given.items():
        if field not in types:
            yield f"{where}: no such field: {field}"
            continue
        kind = types[field]
        if kind.startswith("list[V1"):
            for item in value:
                yield from _inner(kind[5:-1], item, f"{where}.{field}")
        elif kind.startswith("V1"):
            yield from _inner(kind, value, f"{where}.{field}")


def _inner(kind: str, value: Any, where: str) -> Iterator[str]:
    """A model of KServe's; Kubernetes' own ones are validated elsewhere."""
    if kind.startswith(("V1alpha1", "V1beta1")):
        yield from _of_model(kind, value, where)


if __name__ == "__main__":
    sys.exit(main())
