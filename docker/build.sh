#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the image: sh docker/build.sh cpu|cuda. Called by `make image` and `make test-image`.
#   IMAGE       its name; default lmi-server:TARGET
#   BUILDER     docker, podman or buildah; default the first of them that works here
#   BASE_IMAGE  what to start from; default Debian 12 from Docker's hub. "debootstrap" makes that base here, from Debian's
#               packages, and keeps it in CACHE; without the file there it is made anew
#   DEBIAN_MIRROR  where debootstrap finds those packages
#   CACHE       default ~/.cache/lmi-server
# podman and buildah get this machine's settings of pip and apt as mounts for the time of the build: certificates,
# registries, local wheels, proxies. Nothing of them is in the image, and the Dockerfile knows of none.
set -eu
cd "$(dirname "$0")/.."
target="${1:-cpu}"
image="${IMAGE:-lmi-server:$target}"
base="${BASE_IMAGE:-}"
cache="${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lmi-server}"

builder="${BUILDER:-}"
if [ -z "$builder" ]; then
    if docker info >/dev/null 2>&1; then builder=docker
    elif command -v podman >/dev/null; then builder=podman
    elif command -v buildah >/dev/null; then builder=buildah
    else
        echo "build: needs docker, podman or buildah (Debian: apt install buildah)" >&2
        exit 1
    fi
fi

debian_base() { # A root file system of Debian 12, as image localhost/lmi-debian:bookworm.
    command -v debootstrap >/dev/null || { echo "build: needs debootstrap (Debian: apt install debootstrap)" >&2; exit 1; }
    mkdir -p "$cache"
    if [ -e "$cache/bookworm.tar" ]; then
        # The same image as before, so that the layers on it are, too.
        ! buildah inspect --type image localhost/lmi-debian:bookworm >/dev/null 2>&1 || return 0
    else
        root="$(mktemp -d)"
        debootstrap --variant=minbase bookworm "$root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
        rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
        tar -C "$root" -cf "$cache/bookworm.tar.part" .
        mv "$cache/bookworm.tar.part" "$cache/bookworm.tar"
        rm -rf "$root"
    fi
    container="$(buildah from scratch)"
    buildah add --quiet "$container" "$cache/bookworm.tar" / >/dev/null
    buildah config --cmd /bin/sh "$container"
    buildah commit --quiet --rm "$container" localhost/lmi-debian:bookworm >/dev/null
}

settings="$(mktemp -d)"
trap 'rm -rf "$settings"' EXIT
mounts=""
mount() { mounts="$mounts --volume $1:$2:ro"; }
machine_settings() { # What pip and apt are told on this machine, mounted where the image has a directory anyway.
    home="$settings/root"
    pip="$home/.config/pip/pip.conf"
    mkdir -p "$home/.config/pip"
    # Without its constraints, a file that is here alone: the lock says every version.
    python3 -m pip config list 2>/dev/null |
        sed -n "s/^\(:env:\.\|global\.\|install\.\)\([a-z-]*\)='\(.*\)'\$/\2 = \3/p" |
        sed 's/\\n/ /g; s/ = */ = /' |
        awk -F ' = ' 'BEGIN { print "[global]" } $1 != "constraint" && !seen[$1]++' > "$pip"
    mount "$home" /root
    cert="$(sed -n 's/^cert = //p' "$pip")"
    if [ -n "$cert" ]; then
        cp -L "$cert" "$home/ca.crt"
        sed -i 's|^cert = .*|cert = /root/ca.crt|' "$pip"
    fi
    count=0
    # shellcheck disable=SC2013 # words are meant
    for path in $(sed -n 's/^\(find-links\|index-url\|extra-index-url\) = //p' "$pip"); do
        path="${path#file://}"
        path="${path%/simple}" # an index in a folder, which links to its neighbours
        if [ -d "$path" ]; then
            [ -z "$(find "$path" -maxdepth 1 -name "torch-$torch-*.whl")" ] || has_torch=yes
            count=$((count + 1))
            mkdir "$home/$count"
            mount "$path" "/root/$count"
            sed -i "s#$path\(/simple\)\?\( \|\$\)#/root/$count\1\2#" "$pip"
        fi
    done
    apt-config dump 2>/dev/null | grep '^Acquire::https\?::Proxy' > "$settings/proxy" || true
    if [ -s "$settings/proxy" ]; then
        mkdir "$settings/apt"
        mv "$settings/proxy" "$settings/apt/99build"
        mount "$settings/apt" /etc/apt/apt.conf.d
    fi
}

set -- --target "$target" --tag "$image" --file docker/Dockerfile
set -- "$@" --build-arg "VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)"
set -- "$@" --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)"
if [ "$base" = debootstrap ]; then
    debian_base
    base=localhost/lmi-debian:bookworm
fi
[ -z "$base" ] || set -- "$@" --build-arg "BASE_IMAGE=$base"
if [ "$builder" = docker ]; then
    exec docker build "$@" .
fi
torch="$(sed -n 's/^torch==//p' requirements/cpu.lock)"
has_torch=""
machine_settings
# A wheel of torch's CPU build on this machine: its index is not needed.
[ -z "$has_torch" ] || set -- "$@" --build-arg TORCH_INDEX=
isolation=""
[ "$builder" != buildah ] || isolation="--isolation chroot"
# OCI's own format has no place for a health check.
# shellcheck disable=SC2086
"$builder" build --format docker --layers $isolation $mounts "$@" .
