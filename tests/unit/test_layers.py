# SPDX-License-Identifier: Apache-2.0
"""Every module stands in a layer, and what must be cheap to import is."""

import pkgutil
import subprocess
import sys
import tomllib
from importlib import import_module

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.pure
HEAVY = ("vllm", "torch", "transformers")


def modules() -> list[str]:
    """Every module and package below our two."""
    paths = {package: import_module(package).__path__ for package in ("serving", "handlers")}
    return [info.name for package, path in paths.items() for info in pkgutil.walk_packages(path, f"{package}.")]


def test_every_module_stands_in_one_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    members = [member.strip() for layer in layers for member in layer.split("|")]
    homes = {name: [home for home in members if f"{name}.".startswith(f"{home}.")] for name in modules()}
    assert len(homes) > 30
    assert {name: found for name, found in homes.items() if len(found) != 1} == {}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("serving.config.resolve", (*HEAVY, "fastapi", "starlette", "uvicorn")),
        ("handlers.default", (*HEAVY, "fastapi", "starlette", "uvicorn")),
        ("serving.cli", HEAVY),
        ("serving.app", HEAVY),
    ],
)
def test_import_brings_in_nothing_heavy(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
