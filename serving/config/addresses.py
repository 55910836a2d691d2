# SPDX-License-Identifier: Apache-2.0
"""LMI's addresses: the first as vLLM's `host`, `port` and `uds`, the one for management where it is another.

`http://host[:port]`, `https://host[:port]` or `unix:/path`; `--host` and `--port` are stronger. Called by `resolve.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.config.host import absolute
from serving.config.options import ServerSettings
from serving.config.values import parse_int
from serving.errors import Problem

PORT = 8080
"""Where the server listens unless it is told otherwise."""
_BIND_TO_PORT = "SAGEMAKER_BIND_TO_PORT"
_HOST = "LMI_HOST"
"""Where to listen if nothing else says so: the image's variable, because nobody reaches a container's loopback."""
_DEFAULT_PORTS = {"http": 80, "https": 443}
_ALL = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a listener is: a host and a port, or the path of a Unix socket.

    Attributes:
        host: a name or a number; empty for a path.
        port: 0 for any that is free.
        unix_path: absolute; None for a host.
        is_tls: the server's certificate is used.
    """

    host: str
    port: int
    unix_path: str | None = None
    is_tls: bool = False


def defaults(port: int, env: Mapping[str, str]) -> dict[str, Any]:
    """What holds for an address that nobody gave."""
    return {"host": env.get(_HOST) or "127.0.0.1", "port": port}


def listening(
    server: ServerSettings, values: Mapping[str, Any], env: Mapping[str, str], problems: list[Problem]
) -> dict[str, Any]:
    """What of `host`, `port` and `uds` the address and SageMaker's variable decide; `values` are set by name."""
    found: dict[str, Any] = {}
    if (address := _read("inference_address", server.inference_address, values, problems)) is not None:
        found = {"host": address.host, "port": address.port}
        if address.unix_path is not None:
            found = {"uds": address.unix_path}
    if port := env.get(_BIND_TO_PORT):
        try:
            found["port"] = _port(port)
        except ValueError as error:
            problems.append(Problem("VALIDATION", f"{_BIND_TO_PORT}={port!r}: {error}"))
    if "uds" in found and (found.keys() & {"port"} or values.keys() & {"host", "port"}):
        del found["uds"]
    return {name: value for name, value in found.items() if name not in values}


def management(server: ServerSettings, values: Mapping[str, Any], problems: list[Problem]) -> Address | None:
    """Where management routes are, if not at the address of the others, which `values` have by vLLM's names."""
    text = server.management_address
    if text is None or text == server.inference_address:
        return None
    address = _read("management_address", text, values, problems)
    if address is None:
        return None
    inference = Address(values["host"], values["port"], values.get("uds"))
    if inference.unix_path is not None or address.unix_path is not None:
        return None if inference.unix_path == address.unix_path else address
    if address.port == 0 or address.port != inference.port:
        return address
    hosts = {"127.0.0.1" if host == "localhost" else host for host in (address.host, inference.host)}
    if len(hosts) == 1:
        if server.inference_address is not None and not _is_meant(server.inference_address, address):
            where = f"{inference.host}:{inference.port}"
            taken = f"a flag or SAGEMAKER_BIND_TO_PORT moves inference, at {server.inference_address}, to {where}"
            remedy = "give management_address another port"
            problems.append(Problem("CONFLICT", f"management_address={text!r}: {taken}", remedy=remedy))
        return None
    if hosts & {*_ALL}:
        taken = f"port {inference.port} of {inference.host} is the inference address"
        remedy = "give it another port, or the very same address"
        problems.append(Problem("CONFLICT", f"management_address={text!r}: {taken}", remedy=remedy))
    return address


def _is_meant(inference_address: str, address: Address) -> bool:
    """The two keys name one place, in whatever words."""
    try:
        return _parsed(inference_address).port == address.port
    except ValueError:
        return True  # which is a problem of its own


def is_tls(server: ServerSettings, values: Mapping[str, Any], other: Address | None) -> bool:
    """Inference uses the certificate: always where there is one, unless it is there for management's address alone."""
    only_other = other is not None and other.is_tls and (server.inference_address or "").startswith("http:")
    return bool(values.get("ssl_certfile")) and not only_other


def _read(name: str, text: str | None, values: Mapping[str, Any], problems: list[Problem]) -> Address | None:
    """The address that the key `name` gives; None, and perhaps a problem, if there is none."""
    if text is None:
        return None
    if text.startswith("https:") and not values.get("ssl_certfile"):
        remedy = "set option.ssl_certfile and option.ssl_keyfile, or begin with http://"
        problems.append(Problem("NOT_FOUND", f"{name}={text!r} has no certificate", remedy=remedy))
    try:
        return _parsed(text)
    except ValueError as error:
        problems.append(Problem("VALIDATION", f"{name}={text!r}: {error}"))
        return None


def _parsed(address: str) -> Address:
    if address.startswith("unix:/"):
        return Address("", 0, absolute(address.removeprefix("unix:")))
    match = re.fullmatch(r"(https?)://(\[[0-9a-fA-F:]+\]|[^:/\[\]]+)(?::(\d+))?/?", address)
    if match is None:
        raise ValueError("expected http://HOST:PORT, https://HOST:PORT or unix:/PATH")
    scheme, host, port = match.groups()
    return Address(host.strip("[]"), _port(port) if port else _DEFAULT_PORTS[scheme], is_tls=scheme == "https")


def _port(text: str) -> int:
    port = parse_int(text)
    if not 0 <= port < 65536:
        raise ValueError("expected a port below 65536")
    return port
