# SPDX-License-Identifier: Apache-2.0
"""Hides secrets in what is shown: whole values by the option's name, fields of JSON objects by theirs."""

import json
import re
from typing import Any

_SECRET = re.compile(r"token$|secret|password|api_?key|key_file|keystore_pass|authorization", re.IGNORECASE)
_IN_URL = re.compile(r"(?<=://)[^/@\s]+@")
_PAIR = re.compile(r"([A-Za-z_]\w*)=([^,]*)")
_MASK = "***"


def masked(name: str, value: Any) -> Any:
    """`value` of the option `name` without its secrets; of the same shape where it has one.

    A text that looks like JSON, names a secret and cannot be read is hidden as a whole.
    """
    if _SECRET.search(name):
        return [_MASK for _ in value] if isinstance(value, list) else _MASK
    if name == "env" and isinstance(value, str):
        return _PAIR.sub(lambda pair: f"{pair[1]}={masked(pair[1], pair[2])}", value)
    if isinstance(value, dict):
        return {key: masked(str(key), item) for key, item in value.items()}
    if isinstance(value, list):
        return [masked("", item) for item in value]
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith(("{", "[", "'", '"')):
        try:
            return json.dumps(masked("", json.loads(value)))
        except ValueError:
            if re.search(_SECRET.pattern.replace("$", r"\b"), value, re.IGNORECASE):
                return _MASK
    return _IN_URL.sub(f"{_MASK}@", value)
