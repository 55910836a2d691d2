# SPDX-License-Identifier: Apache-2.0
"""LMI's addresses as vLLM's `host`, `port` and `uds`. Called by `resolve.py`.

`http://host[:port]`, `https://host[:port]` or `unix:/path`; `--host` and `--port` are stronger.
"""

import re
from collections.abc import Mapping
from typing import Any

from serving.config.options import ServerSettings
from serving.config.values import parse_int
from serving.errors import Problem

_BIND_TO_PORT = "SAGEMAKER_BIND_TO_PORT"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def listening(
    server: ServerSettings,
    values: Mapping[str, Any],
    env: Mapping[str, str],
    problems: list[Problem],
    warnings: list[str],
) -> dict[str, Any]:
    """What of `host`, `port` and `uds` the address and SageMaker's variable decide; `values` are set by name."""
    found: dict[str, Any] = {}
    address = server.inference_address
    if address is not None:
        try:
            found = _parsed(address)
        except ValueError as error:
            problems.append(Problem("VALIDATION", f"inference_address={address!r}: {error}"))
        if address.startswith("https:") and not values.get("ssl_certfile"):
            remedy = "set option.ssl_certfile and option.ssl_keyfile, or begin with http://"
            problems.append(Problem("NOT_FOUND", f"inference_address={address!r} has no certificate", remedy=remedy))
    if port := env.get(_BIND_TO_PORT):
        try:
            found["port"] = _port(port)
        except ValueError as error:
            problems.append(Problem("VALIDATION", f"{_BIND_TO_PORT}={port!r}: {error}"))
    if "uds" in found and (found.keys() & {"port"} or values.keys() & {"host", "port"}):
        del found["uds"]
    if server.management_address not in (None, address):
        warnings.append("management_address has no effect: management routes are at the inference address")
    return {name: value for name, value in found.items() if name not in values}


def _parsed(address: str) -> dict[str, Any]:
    if address.startswith("unix:"):
        return {"uds": address.removeprefix("unix:")}
    match = re.fullmatch(r"(https?)://(\[[0-9a-fA-F:]+\]|[^:/\[\]]+)(?::(\d+))?/?", address)
    if match is None:
        raise ValueError("expected http://HOST:PORT, https://HOST:PORT or unix:/PATH")
    scheme, host, port = match.groups()
    return {"host": host.strip("[]"), "port": _port(port) if port else _DEFAULT_PORTS[scheme]}


def _port(text: str) -> int:
    port = parse_int(text)
    if not 0 <= port < 65536:
        raise ValueError("expected a port below 65536")
    return port
