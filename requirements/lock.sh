#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Rewrites cpu.lock, dev.lock, ray.lock and cuda.lock from pyproject.toml and cpu.in. Called by `make lock`; needs uv.
set -eu
cd "$(dirname "$0")/.."
uv="$(command -v uv || echo .venv/bin/uv)"
links="${PIP_FIND_LINKS:-} $(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true)"
set -- --quiet --python-version 3.11 --override requirements/cpu-overrides.txt --no-header --no-annotate
for link in $links; do set -- "$@" --find-links "$link"; done
"$uv" pip compile "$@" --extra cpu pyproject.toml requirements/cpu.in -o requirements/cpu.lock
all="$(mktemp)"
"$uv" pip compile "$@" --override requirements/dev-overrides.txt --group dev -c requirements/cpu.lock -o "$all"
grep -vxFf requirements/cpu.lock "$all" > requirements/dev.lock
# What Ray adds to both; it must not move what they have.
"$uv" pip compile "$@" --extra ray -c requirements/cpu.lock -c requirements/dev.lock pyproject.toml -o "$all"
grep -vxF -f requirements/cpu.lock -f requirements/dev.lock "$all" > requirements/ray.lock
rm "$all"
# For the image, whatever the machine: no local wheels, which are a CPU's.
"$uv" pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate \
    --extra cuda pyproject.toml -o requirements/cuda.lock
