#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Sets up $VENV from the lock: with an existing uv, else with uv from the registry, else with pip.
# Called by `make setup`. Prints what is missing before it downloads anything.
set -eu
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
VENV="${VENV:-.venv}"
NEED_KB=6000000

missing=""
need() { missing="$missing
  - $1"; }
[ "$(uname -s)" = Linux ] || need "Linux (this is $(uname -s)); elsewhere use the container"
[ "$(uname -m)" = x86_64 ] || need "an x86_64 processor for the CPU build of vLLM (this is $(uname -m))"
if ! command -v "$PYTHON" >/dev/null 2>&1; then
    need "Python 3.11 or newer as '$PYTHON'; name another with make PYTHON=..."
else
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        need "Python 3.11 or newer ('$PYTHON' is $("$PYTHON" -V 2>&1)); name another with make PYTHON=python3.11"
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || need "Python's venv module (Debian: apt install python3-venv)"
fi
if [ -r /proc/cpuinfo ] && ! grep -qw avx2 /proc/cpuinfo; then need "a processor with AVX2"; fi
[ -e "$VENV" ] || [ "$(df -Pk . | awk 'NR == 2 { print $4 }')" -ge "$NEED_KB" ] || need "6 GB of free disk space"
if [ -n "$missing" ]; then
    echo "setup: missing:$missing" >&2
    exit 1
fi

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
py="$VENV/bin/python"
# An environment that uv made has no pip.
"$py" -m pip --version >/dev/null 2>&1 || "$py" -m ensurepip --default-pip >/dev/null

# vLLM's CPU kernels are linked with libnuma, which a small Debian does not have. Without root its package can still be
# fetched and unpacked; the .pth file loads the library in every interpreter of this environment.
numa() { "$py" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null; }
if ! numa; then
    unpacked="$(mktemp -d)"
    (cd "$unpacked" && chmod 755 . && apt-get download --quiet libnuma1 && dpkg-deb -x libnuma1_*.deb .) >/dev/null 2>&1 || true
    library="$(find "$unpacked" -name 'libnuma.so.1' 2>/dev/null | head -n 1)"
    if [ -n "$library" ]; then
        cp -L "$library" "$VENV/lib/libnuma.so.1"
        site="$("$py" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
        echo 'import ctypes, sys; ctypes.CDLL(sys.prefix + "/lib/libnuma.so.1")' > "$site/lmi_libnuma.pth"
        echo "setup: libnuma is not installed here; using a copy of Debian's package in $VENV/lib"
    fi
    rm -rf "$unpacked"
    if ! numa; then
        echo "setup: missing: libnuma.so.1 (Debian: apt install libnuma1; Fedora: dnf install numactl-libs)" >&2
        exit 1
    fi
fi

# Directories with local wheels: pip reads them from its environment and configuration, uv from neither.
links="${PIP_FIND_LINKS:-} $("$py" -m pip config get global.find-links 2>/dev/null || true)"
set --
for link in $links; do set -- "$@" --find-links "$link"; done

# The CPU build of torch has a local version that lies on PyTorch's own index, unless a local wheel is at hand.
torch="$(sed -n 's/^torch==//p' requirements/cpu.lock)"
found=""
for link in $links; do [ -z "$(find "$link" -maxdepth 1 -name "torch-$torch-*.whl" 2>/dev/null)" ] || found=yes; done
[ -n "$found" ] || set -- "$@" --extra-index-url https://download.pytorch.org/whl/cpu

uv="$(command -v uv || true)"
if [ -z "$uv" ]; then
    "$py" -m pip install --quiet uv && uv="$VENV/bin/uv" || echo "setup: no uv to be had, using pip (slower)"
fi
echo "setup: installing into $VENV"
if [ -n "$uv" ]; then
    [ -n "$found" ] || set -- "$@" --index-strategy unsafe-best-match
    # As pip does by itself. Else each of the server's processes compiles six thousand modules at its first start, and at
    # every start where Python may not write what it compiled.
    "$uv" pip install --quiet --compile-bytecode --python "$py" --no-deps "$@" \
        -r requirements/cpu.lock -r requirements/dev.lock
    "$uv" pip install --quiet --python "$py" --no-deps --no-build-isolation -e .
else
    "$py" -m pip install --quiet --no-deps "$@" -r requirements/cpu.lock -r requirements/dev.lock
    "$py" -m pip install --quiet --no-deps --no-build-isolation -e .
fi
