# SPDX-License-Identifier: Apache-2.0
"""Models that come as an archive, or one directory too deep. Called by `model.py`."""

import gzip
import hashlib
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, cast

from serving.errors import ConfigError, Problem

SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip", ".mar")
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
_BLOCK = 1024 * 1024
_LEVELS = 2
"""How often a directory may hold nothing but another one, as in LMI."""


def is_archive(path: Path) -> bool:
    """A file whose name ends as one of `SUFFIXES`, in any case."""
    return path.name.lower().endswith(SUFFIXES) and os.path.isfile(path)


def stem(name: str) -> str:
    """A file's name without what tells that it is an archive."""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def unwrapped(directory: Path, cache: Path) -> Path:
    """The directory with the model's files: the only one in another, or what the only archive in it holds.

    Raises:
        ConfigError: an archive cannot be extracted.
    """
    for _ in range(_LEVELS):
        visible = [entry for entry in directory.iterdir() if not entry.name.startswith(".")]
        if len(visible) != 1:
            break
        if visible[0].is_dir():
            directory = visible[0]
        elif is_archive(visible[0]):
            directory = extracted(visible[0], cache)
        else:
            break
    return directory


def extracted(archive: Path, cache: Path) -> Path:
    """The directory with the archive's files, in `cache`, where an earlier start may have put them.

    Raises:
        ConfigError: it is no archive, or a name leads out of it (`VALIDATION`); there is no room (`NOT_FOUND`).
    """
    status = archive.stat()
    identity = repr((str(archive), status.st_size, status.st_mtime_ns))
    target = cache / "archives" / f"{stem(archive.name)}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = tempfile.mkdtemp(prefix=".", dir=target.parent)
        try:
            _extract(archive, partial)
            os.rename(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except (*_DAMAGED, ValueError, EOFError, RuntimeError) as error:  # zipfile raises RuntimeError for what it lacks
        raise ConfigError([Problem("VALIDATION", f"{archive} cannot be extracted: {error}")]) from None
    except OSError as error:
        text = f"{archive} cannot be extracted to {target.parent}: {error.strerror or error}"
        remedy = "SERVING_DOWNLOAD_DIR names another place"
        raise ConfigError([Problem("NOT_FOUND", text, remedy=remedy)]) from None
    return target


def _extract(archive: Path, target: str) -> None:
    if archive.name.lower().endswith((".zip", ".mar")):
        with zipfile.ZipFile(archive) as content:
            _check_names(content.namelist())
            content.extractall(target)
        return
    with _tar_stream(archive) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as content:
            for member in content:
                _check_names([member.name])
                # Refuses links that lead out, and devices.
                content.extract(member, target, filter="data")
        # tarfile takes a damaged part for the end; the checksum behind it does not.
        while stream.read(_BLOCK):
            pass


def _tar_stream(archive: Path) -> IO[bytes]:
    is_compressed = not archive.name.lower().endswith(".tar")
    return cast(IO[bytes], gzip.open(archive)) if is_compressed else archive.open("rb")


def _check_names(names: list[str]) -> None:
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"the name {name!r} leads out of it")
