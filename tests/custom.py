# SPDX-License-Identifier: Apache-2.0
"""A server with a user's code, its real worker process and a stand-in for the engine, on a real port.

Everything from the files of a model directory to HTTP is the server's own; the engine alone is `EchoEngine`.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from handlers import resolve as handlers_of
from serving.assembly import Assembly, Launched, Setup
from serving.config.host import Host
from serving.config.options import ASYNC_SERVICE
from serving.config.resolve import resolve
from serving.ledger import Ledger
from serving.user_packages import UserPython
from tests.fakes import EchoEngine

DIRECT: Mapping[str, str] = {}
WRAPPED: Mapping[str, str] = {"option.entryPoint": ASYNC_SERVICE}


@dataclass
class CustomServer:
    """A running server.

    Attributes:
        client: of its HTTP port.
        assembly: its parts.
        engine: the stand-in.
        num_starts: how often the engine was started.
        warnings: of the configuration.
    """

    client: httpx.AsyncClient
    assembly: Assembly
    engine: EchoEngine
    num_starts: int = 0
    start_failure: Exception | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def worker_pid(self) -> int | None:
        """Of the process that runs the user's code."""
        assert self.assembly.custom is not None
        return self.assembly.custom.worker_pid

    async def until_up(self, timeout_s: float = 10) -> None:
        """Waits until a worker takes calls."""
        async with asyncio.timeout(timeout_s):
            while self.worker_pid is None:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def serving(
    directory: Path,
    files: Mapping[str, str],
    properties: Mapping[str, str] = WRAPPED,
    adapters: Sequence[str] = (),
    start_failure: Exception | None = None,
) -> AsyncIterator[CustomServer]:
    """A server on `directory` with these files and lines of `serving.properties`.

    The model is `m0` unless the properties have a model id; an empty one means that there is none.

    Raises:
        ConfigError: the start is refused.
    """
    lines = {"option.model_id": "m0", **properties}
    if not lines["option.model_id"]:
        del lines["option.model_id"]
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (directory / "serving.properties").write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
    config = resolve({}, ["--model", str(directory)], Host(), Path("/demo"))
    warnings = list(config.warnings)
    code = handlers_of.user_code(config, warnings)
    engine = EchoEngine(adapters)
    server: CustomServer

    async def launch(is_late: bool) -> Launched:
        server.num_starts += 1
        if server.start_failure is not None:
            raise server.start_failure
        return Launched(engine, _completions(engine))

    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    setup = Setup(config, code, UserPython(sys.executable, (), ()), environment)
    before = os.getcwd()
    assembly = Assembly(setup, launch, Ledger())
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            server = CustomServer(client, assembly, engine, start_failure=start_failure, warnings=warnings)
            try:
                front = await assembly.start()
                http = uvicorn.Server(uvicorn.Config(front, log_level="error", lifespan="off"))
                http.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
                task = asyncio.create_task(http.serve(sockets=[sock]))
                while not http.started:
                    await asyncio.sleep(0.01)
                try:
                    yield server
                finally:
                    http.should_exit = http.force_exit = True
                    await task
            finally:
                await assembly.close()
                os.chdir(before)


def _completions(engine: EchoEngine):
    """`POST /v1/completions` as a stand-in for vLLM's routes."""

    async def completions(body: dict) -> dict:
        return {"object": "text_completion", "choices": [{"text": f"D:{body['prompt']}"}]}

    def attach(app: FastAPI) -> None:
        app.add_api_route("/v1/completions", completions, methods=["POST"])

    return attach
