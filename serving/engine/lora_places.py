# SPDX-License-Identifier: Apache-2.0
"""Where the files of adapters are that programs name by directory or Hub id. Part of the engines without a server."""

import itertools
import os
from collections.abc import Callable

from serving.engine.start_failure import one_line
from serving.errors import AdapterRefused, PayloadError

NO_LORA = "adapters need an engine that was started with enable_lora=True"
numbers = itertools.count(1_000_001)
"""The engine's numbers of adapters, none of which comes twice; users of a wrapped `LLM` have their own, from 1 on."""


class Places:
    """Directories of adapters, each by one text however it was spelled.

    Args:
        locate: fetches a Hub id and returns its directory.
    """

    def __init__(self, locate: Callable[[str], str]):
        self._locate = locate
        self._fetched: dict[str, str] = {}

    def directory(self, where: str) -> str:
        """The directory that `where` means; a Hub id is fetched once.

        Raises:
            PayloadError: it is empty.
            AdapterRefused: it is no directory, and cannot be fetched.
        """
        if not where:
            raise PayloadError("an adapter is a directory, a Hub id or the name of one beside the model")
        local = os.path.expanduser(where)
        if os.path.isdir(local) or where.startswith(("/", "~", ".")):
            return os.path.realpath(local)
        if where not in self._fetched:
            try:
                found = self._locate(where)
            except (OSError, ValueError) as error:  # those of the Hub's library among them
                reason = f": {one_line(error)}"
                raise AdapterRefused(f"{where} is no directory, and cannot be fetched from the Hub{reason}") from error
            if not os.path.isdir(found):
                raise AdapterRefused(f"{where} is no directory, and the Hub has no such model")
            self._fetched[where] = os.path.realpath(found)
        return self._fetched[where]
