# SPDX-License-Identifier: Apache-2.0
"""Fetches directories that stand elsewhere: `hf://organization/name[@revision]` and `s3://bucket/prefix`.

What has not changed since is not fetched twice. Blocks: not for the event loop's thread.
"""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

logger = logging.getLogger(__name__)


class DownloadFailed(Exception):
    """The text names the source, what went wrong and, where we know it, the remedy."""


def cache_directory(env: Mapping[str, str]) -> Path:
    """LMI's directory for what may be made again."""
    return Path(env.get("DJL_CACHE_DIR") or Path(env.get("HOME") or os.path.expanduser("~"), ".cache/lmi"))


def fetch(source: str, directory: Path, patterns: Sequence[str] | None = None) -> Path:
    """The local copy of `source`.

    Args:
        source: begins with `hf://` or `s3://`.
        directory: for copies from S3; those from the Hub are kept in its own cache.
        patterns: of the files that are wanted, as `*.json`; None for all.

    Raises:
        DownloadFailed: it cannot be fetched.
    """
    try:
        return _from_hub(source, patterns) if source.startswith("hf://") else _from_s3(source, directory, patterns)
    except ValueError as error:  # no name for the Hub
        raise DownloadFailed(f"{source}: {str(error).strip().splitlines()[0]}") from None
    except OSError as error:
        raise DownloadFailed(f"{source}: {error.strerror or error}") from None


def check_model(name: str, revision: str | None, token: str | bool | None) -> None:
    """Whether the Hub, or its cache, has this model for us: loading it says the same at length, and late.

    A name that is none of the Hub's, and a model without a configuration, are left to vLLM.

    Raises:
        DownloadFailed: it has not.
    """
    from huggingface_hub import constants, errors, hf_hub_download

    try:
        with suppress(errors.EntryNotFoundError, errors.HFValidationError), _hub_errors(name, revision):
            hf_hub_download(name, "config.json", revision=revision, token=token)
    except DownloadFailed:
        cached = Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "snapshots")
        if not (cached.is_dir() and any(cached.iterdir())):
            raise
    except OSError as error:
        raise DownloadFailed(f"{name}: {error.strerror or error}") from None


def _from_hub(source: str, patterns: Sequence[str] | None) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = source.removeprefix("hf://").strip("/").partition("@")
    wanted = list(patterns) if patterns is not None else None
    with _hub_errors(source, revision):
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=wanted))


@contextmanager
def _hub_errors(source: str, revision: str | None) -> Iterator[None]:
    """What the Hub's client raises, in one line."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        text = "is gated; accept its terms on the Hub and set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        text = "is not on the Hub, or is private; check the name, or set HF_TOKEN"
    except errors.RevisionNotFoundError:
        text = f"has no revision {revision!r}"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        text = "is not in the cache, and the Hub cannot be reached; check the network, HF_ENDPOINT and HF_HUB_OFFLINE"
    except errors.EntryNotFoundError:
        raise
    except errors.HfHubHTTPError as error:
        text = str(error).strip().splitlines()[0]
    else:
        return
    raise DownloadFailed(f"{source}: {text}")


def _from_s3(source: str, directory: Path, patterns: Sequence[str] | None) -> Path:
    try:
        import boto3
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise DownloadFailed(f"{source}: reading from S3 needs boto3: pip install 'lmi-server[s3]'") from None
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    prefix = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
    try:
        client = boto3.Session().client("s3")
        objects = [
            one
            for one in _listed(client, bucket, prefix)
            if not one["Key"].endswith("/") and _is_wanted(one["Key"].removeprefix(prefix), patterns)
        ]
        if not objects and prefix:
            key = prefix.rstrip("/")
            objects = [one for one in _listed(client, bucket, key) if one["Key"] == key]
            prefix = key[: key.rfind("/") + 1]
        if not objects:
            raise DownloadFailed(f"{source}: nothing is there")
        return _copied(client, bucket, prefix, objects, directory)
    except (Boto3Error, BotoCoreError, ClientError) as error:
        raise DownloadFailed(f"{source}: {' '.join(str(error).split())}") from None


def _listed(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Contents", [])


def _is_wanted(name: str, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(fnmatch(name, pattern) for pattern in patterns)


def _copied(client: Any, bucket: str, prefix: str, objects: list[dict[str, Any]], directory: Path) -> Path:
    """The copy of these objects below `prefix`, complete or not there at all; another one for each content."""
    listed = [(one["Key"], one["ETag"], one["Size"]) for one in objects]
    target = directory / hashlib.sha256(repr((bucket, listed)).encode()).hexdigest()[:32]
    if target.is_dir():
        return target
    directory.mkdir(parents=True, exist_ok=True)
    partial = tempfile.mkdtemp(prefix=f".{target.name}-", dir=directory)
    try:
        for key, _, _ in listed:
            relative = PurePosixPath(key.removeprefix(prefix))
            if ".." in relative.parts or relative.is_absolute():
                raise DownloadFailed(f"s3://{bucket}/{key}: the name leads out of its directory")
            path = Path(partial, relative)
            path.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(bucket, key, str(path))
        if not target.is_dir():
            os.rename(partial, target)
        logger.info("copied %d files from s3://%s/%s", len(listed), bucket, prefix)
        return target
    finally:
        shutil.rmtree(partial, ignore_errors=True)
