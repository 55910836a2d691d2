# SPDX-License-Identifier: Apache-2.0
"""Where adapters may come from: `option.adapter_roots`, directories and prefixes of what is downloaded.

Part of the registry in `adapters.py`.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from serving import downloads
from serving.errors import AdapterRefused, BadParameter

_FILE = "file://"
_FILES = ("adapter_config.json", "adapter_model.*", "*.py")
"""What is fetched of a place that may hold anything."""
_MOST_FETCHES = 2
"""At once: they take threads that others need."""


class AdapterSources:
    """Finds the directory of a source that a client names.

    Args:
        roots: absolute directories, the first of which relative sources are meant from, and prefixes such as
            `s3://bucket/adapters/` or `hf://organization/`.
        copies: where to keep what is downloaded.
    """

    def __init__(self, roots: Sequence[str], copies: Path):
        self._directories = [os.path.realpath(root) for root in roots if "://" not in root]
        self._prefixes = [f"{root.rstrip('/')}/" for root in roots if "://" in root]
        self._copies = copies
        self._fetching = asyncio.Semaphore(_MOST_FETCHES)

    async def find(self, src: str) -> tuple[str, str]:
        """What to call it, and its directory here; what stands elsewhere is fetched.

        Raises:
            BadParameter: a URL that no root allows.
            AdapterRefused: nothing is there, or it lies where adapters may not come from.
        """
        if (remote := self._remote(src)) is not None:
            try:
                async with self._fetching:
                    return remote, str(await asyncio.to_thread(downloads.fetch, remote, self._copies, _FILES))
            except downloads.DownloadFailed as error:
                raise AdapterRefused(str(error)) from None
        if "://" in src.removeprefix(_FILE):
            raise BadParameter("URL adapters are not currently supported")
        path = await asyncio.to_thread(self._local, src)
        return path, path

    def is_same(self, one: str, other: str) -> bool:
        """Two sources mean the same directory."""
        remote = self._remote(one) or one, self._remote(other) or other
        if any("://" in url.removeprefix(_FILE) for url in remote):
            return remote[0] == remote[1]
        try:
            return os.path.realpath(self._placed(one)) == os.path.realpath(self._placed(other))
        except (OSError, ValueError):
            return False

    def _remote(self, src: str) -> str | None:
        """The URL of a source under one of the prefixes; a Hub id may come without its scheme.

        What anybody may propose to a repository, `refs/pr/...`, is not what its owner has there.
        """
        if ".." in src.split("/") or "@refs/" in src:
            return None
        urls = [src] if "://" in src else [f"hf://{src}"]
        return next(
            (url for url in urls if any(url.startswith(prefix) and url != prefix for prefix in self._prefixes)), None
        )

    def _placed(self, src: str) -> str:
        path = src.removeprefix(_FILE)
        return os.path.normpath(os.path.join(self._directories[0], path)) if self._directories else path

    def _local(self, src: str) -> str:
        path = self._placed(src)
        refusal = f"Only local LoRA models are supported. {src} is not a valid path"
        try:
            real = os.path.realpath(path)
        except (OSError, ValueError):
            raise AdapterRefused(refusal) from None
        if not any(real == root or real.startswith(f"{root}{os.sep}") for root in self._directories):
            raise AdapterRefused(f"{refusal} (outside option.adapter_roots)")
        if not os.path.isdir(real):
            raise AdapterRefused(refusal)
        return path
