# SPDX-License-Identifier: Apache-2.0
"""What docker/build.sh asks of the program that builds, and what of this machine it shows to the build."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import ROOT, commit

pytestmark = pytest.mark.pure
TELLS = """#!/bin/sh
[ "$1" != info ] || exit 0
printf '%s\\n' "$@"
for word in "$@"; do
    case "$word" in *:/root:ro) cat "${word%:/root:ro}/.config/pip/pip.conf" "${word%:/root:ro}/ca.crt" ;; esac
done
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine whose pip has a certificate, constraints, a folder of wheels, two indexes in folders, one elsewhere."""
    for name in ("wheels", "index/simple", "index-more/simple"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ca.pem").write_text("the certificate\n")
    (tmp_path / "pip.conf").write_text(
        f"[global]\ncert = {tmp_path}/ca.pem\nfind-links = {tmp_path}/wheels\nindex-url = https://pypi.example/simple\n"
        f"extra-index-url =\n  file://{tmp_path}/index-more/simple\n  file://{tmp_path}/index/simple\n"
        f"constraint = {tmp_path}/constraints.txt\n"
    )
    program(tmp_path / "bin/python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    return tmp_path


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def built(machine: Path, *words: str, **env: str) -> list[str]:
    """The lines that the building program says."""
    env |= {"PATH": f"{machine}/bin:/usr/bin:/bin", "HOME": str(machine), "PIP_CONFIG_FILE": str(machine / "pip.conf")}
    command = ["sh", str(ROOT / "docker/build.sh"), *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_docker(machine: Path) -> None:
    program(machine / "bin/docker", TELLS)
    said = built(machine, "cuda", BASE_IMAGE="debian.example/12")
    assert said[:7] == ["build", "--target", "cuda", "--tag", "lmi-server:cuda", "--file", "docker/Dockerfile"]
    assert said[-1] == "."
    arguments = [word for before, word in pairwise(said) if before == "--build-arg"]
    assert arguments[0].startswith("VERSION=0.")
    assert arguments[1].startswith(f"REVISION={commit()}")
    assert arguments[2:] == ["BASE_IMAGE=debian.example/12"]


def test_buildah_gets_what_pip_is_told(machine: Path) -> None:
    """As mounts over a folder that the image has anyway, so that nothing is left in it."""
    program(machine / "bin/buildah", TELLS)
    said = built(machine, BUILDER="buildah", IMAGE="name:tag")
    volumes = [word for before, word in pairwise(said) if before == "--volume"]
    assert volumes[0].endswith(":/root:ro")
    assert volumes[1:] == [
        f"{machine}/index-more:/root/1:ro", f"{machine}/index:/root/2:ro", f"{machine}/wheels:/root/3:ro"
    ]  # fmt: skip
    assert said[1:5] == ["--format", "docker", "--layers", "--isolation"]
    assert "name:tag" in said
    settings = dict(line.split(" = ", 1) for line in said if " = " in line)
    assert settings["cert"] == "/root/ca.crt"
    assert settings["find-links"] == "/root/3"
    assert settings["index-url"] == "https://pypi.example/simple"
    assert settings["extra-index-url"].split() == ["file:///root/1/simple", "file:///root/2/simple"]
    assert "constraint" not in settings
    assert said[-1] == "the certificate"


@pytest.mark.parametrize("has_wheel", [True, False])
def test_torch_of_this_machine(machine: Path, has_wheel: bool) -> None:
    """PyTorch's own index is asked only where no wheel of the locked version lies here."""
    program(machine / "bin/buildah", TELLS)
    (line,) = [line for line in (ROOT / "requirements/cpu.lock").read_text().splitlines() if line.startswith("torch==")]
    if has_wheel:
        (machine / f"wheels/torch-{line.removeprefix('torch==')}-cp311-cp311-linux_x86_64.whl").touch()
    assert ("TORCH_INDEX=" in built(machine, BUILDER="buildah")) == has_wheel
