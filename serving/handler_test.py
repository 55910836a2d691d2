# SPDX-License-Identifier: Apache-2.0
"""`lmi handler test`: one request to a user's handler, in its worker process, without an engine. Called by `cli.py`."""

import asyncio
import json
import mimetypes
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from handlers import resolve as handlers_of
from handlers.base import InferenceRequest, InferenceResponse
from handlers.user_code import UserCode
from serving.config.resolve import ResolvedConfig
from serving.errors import ConfigError, CustomCodeError, Problem, ServingError
from serving.user_packages import UserPython

_TYPES = {".json": "application/json", ".npz": "tensor/npz", ".ndlist": "tensor/ndlist", ".csv": "text/csv"}


def run(
    config: ResolvedConfig, code: UserCode | None, python: UserPython, request: Path, headers: Sequence[str]
) -> int:
    """Makes the start-up call, sends the request, prints the answer; returns the exit code, 1 for a failure.

    Args:
        config: of the model directory.
        code: the user's file.
        python: what runs it.
        request: a file with the body; its suffix says which content type it has, unless a header does.
        headers: `name: value` each.

    Raises:
        ConfigError: there is no handler, it does not load, or a header cannot be read.
    """
    if code is None or not code.is_custom:
        where = config.model_dir or "the model directory"
        text = f"{where} has no file with a function {config.options.handler!r}"
        raise ConfigError([Problem("NOT_FOUND", text, remedy="write model.py, or set option.entryPoint")])
    sent = {"content-type": _content_type(request), **dict(_header(text) for text in headers)}
    body = request.read_bytes()
    return asyncio.run(_test(config, code, python, InferenceRequest(body, sent, "test")))


async def _test(config: ResolvedConfig, code: UserCode, python: UserPython, request: InferenceRequest) -> int:
    handler = handlers_of.custom(code, config, python, dict(os.environ), None, lambda: None)
    try:
        await handler.start()
        try:
            return await _print(await handler.handle(request))
        except CustomCodeError as error:
            print(f"HTTP {int(error.http_status)}", json.dumps(error.body), sep="\n")
        except ServingError as error:
            print(f"HTTP {int(error.http_status)}", error, sep="\n")
        return 1
    finally:
        await handler.close()


async def _print(response: InferenceResponse) -> int:
    """Status, headers and body, a stream as it comes."""
    print(f"HTTP {int(response.status)}")
    headers: Mapping[str, str] = {"content-type": response.media_type, **response.headers}
    for name, text in headers.items():
        if text:
            print(f"{name}: {text}")
    print(flush=True)
    if int(response.status) == 204:
        print("(nothing: in the server, the default handler would answer)")
    last = b""
    if isinstance(response.body, bytes):
        _write(last := response.body)
    else:
        async with aclosing(response.body) as body:
            async for last in body:
                _write(last)
    if response.on_delivered is not None:
        response.on_delivered()
    if last and not last.endswith(b"\n"):
        print()
    return 0 if response.status < 400 else 1


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _header(text: str) -> tuple[str, str]:
    name, separator, value = text.partition(":")
    if not separator:
        raise ConfigError([Problem("USAGE", f"--header {text!r}: expected name: value")])
    return name.strip().lower(), value.strip()


def _content_type(path: Path) -> str:
    return _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
