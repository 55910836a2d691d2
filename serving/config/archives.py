# SPDX-License-Identifier: Apache-2.0
"""Models that come as an archive, or one directory too deep. Called by `model.py`."""

import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

from serving.errors import ConfigError, Problem

SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip", ".mar")
_LEVELS = 2
"""How often a directory may hold nothing but another one, as in LMI."""


def is_archive(path: Path) -> bool:
    """A file whose name ends as one of `SUFFIXES`, in any case."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


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
    except (tarfile.TarError, zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ConfigError([Problem("VALIDATION", f"{archive} cannot be extracted: {error}")]) from None
    except OSError as error:
        text = f"{archive} cannot be extracted to {target.parent}: {error.strerror or error}"
        remedy = "SERVING_DOWNLOAD_DIR names another place"
        raise ConfigError([Problem("NOT_FOUND", text, remedy=remedy)]) from None
    return target


def _extract(archive: Path, target: str) -> None:
    if archive.name.lower().endswith((".zip", ".mar")):
        with zipfile.ZipFile(archive) as content:
            for name in content.namelist():
                if name.startswith("/") or ".." in name.split("/"):
                    raise ValueError(f"the name {name!r} leads out of it")
            content.extractall(target)
    else:
        with tarfile.open(archive) as content:
            # Refuses absolute names, those with .., links that lead out, and devices.
            content.extractall(target, filter="data")
