# SPDX-License-Identifier: Apache-2.0
"""Hides secrets in what is shown: whole values by the option's name, fields of JSON objects by theirs."""

import json
import re
from typing import Any

_SECRET = re.compile(r"token$|secret|password|api_?key|key_file|keystore_pass", re.IGNORECASE)
_IN_BROKEN_JSON = re.compile(r"""(\w*(?:token|secret|password|api_?key|key_file|keystore_pass)["']?\s*[:=]\s*).*""")
_MASK = "***"


def masked(name: str, value: Any) -> Any:
    """`value` of the option `name` without its secrets; of the same shape where it has one."""
    if _SECRET.search(name):
        return [_MASK for _ in value] if isinstance(value, list) else _MASK
    if isinstance(value, dict):
        return {key: masked(str(key), item) for key, item in value.items()}
    if isinstance(value, str) and "{" in value:
        try:
            return json.dumps(masked("", json.loads(value)))
        except ValueError:
            return _IN_BROKEN_JSON.sub(rf"\1{_MASK}", value)
    return value
