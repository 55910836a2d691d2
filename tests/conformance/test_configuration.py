# SPDX-License-Identifier: Apache-2.0
"""The configuration contract: files, variables and flags of a machine to vLLM's arguments, or to a refusal."""

import dataclasses
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from handlers.resolve import without_effect
from serving import demo
from serving.config.host import Host
from serving.config.resolve import resolve
from serving.errors import ConfigError
from tests.conformance.cases import Case, cases

pytestmark = pytest.mark.pure
STORE = "/opt/ml/model"
GIB = 1024**3


@pytest.mark.parametrize("case", cases("configuration", "fake"), ids=str)
def test_case(case: Case, tmp_path: Path, record_property) -> None:
    record_property("case", (case.contract, case.id, bool(case.deviation)))
    expect = case.expect
    host = Host(device_count=case.given.get("gpus", 1), memory_bytes=8 * GIB, root=tmp_path, fetch=fetched)
    env, argv = prepared(case.given, host)
    if "error" in expect:
        with pytest.raises(ConfigError) as raised:
            resolve(env, argv, host, demo.MODEL_DIR)
        (problem,) = raised.value.problems
        assert problem.kind == expect["error"]
        assert str(problem).replace(str(tmp_path), "<root>").startswith(expect["says"])
        return
    config = resolve(env, argv, host, demo.MODEL_DIR)
    base = _base(config.options.model_id if "from" in expect else expect.get("model", "org/m"), host)
    if "from" in expect:
        assert config.options.model_id.startswith(expect["from"]), config.options.model_id
        base |= {"served_model_name": ["lmi", expect.get("model", base["model"])]}
    assert config.vllm_arguments == base | expect.get("vllm", {})
    warnings = [*config.warnings, *without_effect(config.mode, config.options, None, config.server.batch_size)]
    assert len(warnings) == expect.get("warnings", 0), warnings
    assert {name: f"/{path.relative_to(tmp_path)}" for name, path in config.adapters.items()} == expect.get(
        "adapters", {}
    )
    assert config.mode.name == expect.get("mode", "async")
    for table, field in (("lmi", config.options), ("server", config.server)):
        assert {name: getattr(field, name) for name in expect.get(table, {})} == expect.get(table, {})
    assert config.environment.items() >= expect.get("environment", {}).items()
    where = dataclasses.asdict(config.management) if config.management is not None else {}
    assert {name: value for name, value in where.items() if value} == expect.get("management", {})
    if "name" in expect:
        assert config.model_name == expect["name"]
    if "model_dir" in expect:
        assert config.model_dir == host.path(expect["model_dir"])


def fetched(url: str, directory: Path) -> Path:
    """Stands for S3, which has a model wherever it is asked."""
    path = directory / "copy"
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


def prepared(given: dict[str, Any], host: Host) -> tuple[dict[str, str], list[str]]:
    """Variables and flags of a case, its files written."""
    host.path(STORE).mkdir(parents=True)
    files = dict(given.get("files", {}))
    if "file" in given:
        files[f"{STORE}/serving.properties"] = given["file"]
    for path, text in files.items():
        host.path(path).parent.mkdir(parents=True, exist_ok=True)
        host.path(path).write_bytes(text.encode())
    for path, members in given.get("archives", {}).items():
        with tarfile.open(host.path(path), "w:gz") as archive:
            for name, text in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
    env = {"HF_MODEL_ID": "org/m", "SERVING_MODEL_STORE": STORE} | given.get("env", {})
    return {name: value for name, value in env.items() if value is not None}, given.get("argv", [])


def _base(model: str, host: Host) -> dict[str, Any]:
    """What the engine gets when nothing but the model is given."""
    base = {
        "model": model,
        "revision": None,
        "trust_remote_code": False,
        "dtype": "auto",
        "quantization": None,
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "max_num_seqs": 256,
        "max_num_batched_tokens": None,
        "cpu_offload_gb": None,
        "enable_lora": False,
        "max_loras": 4,
        "served_model_name": ["lmi", model],
        "host": "127.0.0.1",
        "port": 8080,
        "shutdown_timeout": 15,
    }
    return base if host.device_count else base | {"kv_cache_memory_bytes": 2 * GIB}
