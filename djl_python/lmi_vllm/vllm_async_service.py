# SPDX-License-Identifier: Apache-2.0
"""The default handler under the name of LMI's vLLM service, for a `model.py` that wraps or subclasses it.

The engine runs in the server. A request is sent there as the client wrote it, and the answer's bytes pass through.
"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from djl_python import _bridge
from djl_python.inputs import Input
from djl_python.outputs import Output

_ADAPTER_HEADER = "X-Amzn-SageMaker-Adapter-Identifier"
_PASSED_ON = ("Content-Type", "Accept", _ADAPTER_HEADER, "X-Amzn-SageMaker-Session-Id")
_STREAMS = ("application/jsonlines", "application/x-ndjson", "text/event-stream")
_OF_THE_CONNECTION = {"connection", "content-length", "date", "host", "server", "transfer-encoding"}
_NO_ADAPTERS = (
    "The server itself manages its adapters: use POST and DELETE on /models/{model}/adapters. A hook with this name in "
    "model.py runs in addition, and has nothing to call."
)


class VLLMHandler:
    """The default handler.

    Attributes:
        initialized: `initialize` was called.
        properties: what it was called with.
    """

    def __init__(self) -> None:
        self.initialized = False
        self.properties: Mapping[str, Any] = {}

    async def initialize(self, properties: Mapping[str, Any]) -> None:
        """Keeps the properties; the server starts its engine by itself, with the model's options."""
        self.properties = properties
        self.initialized = True

    async def inference(self, inputs: Input) -> Output | AsyncGenerator[Output]:
        """Has the server's engine answer a request.

        Returns:
            An Output; for a request that streams, a generator of them. A refusal is an Output with its status and body.

        Raises:
            RuntimeError: this is not a handler that the server runs.
        """
        body = bytes(inputs.get_as_bytes() or b"")
        response = await _bridge.connected().request(body, _headers(inputs))
        if response.status < 400 and response.headers.get("content-type", "").startswith(_STREAMS):
            return _streamed(response)
        whole = b"".join([chunk async for chunk in response.chunks])
        output = _with_headers(Output(code=response.status), response)
        if response.status >= 300:
            return output.add(whole)
        return output.add(Output.binary_encode({"data": whole.decode("utf-8", "backslashreplace"), "last": True}))


service = VLLMHandler()


async def handle(inputs: Input) -> Output | AsyncGenerator[Output] | None:
    """Answers a request on the server's engine; the call at start-up gets None."""
    if not service.initialized:
        await service.initialize(inputs.get_properties())
    return None if inputs.is_empty() else await service.inference(inputs)


async def register_adapter(inputs: Input) -> Output:
    """Not possible from a handler.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(_NO_ADAPTERS)


async def update_adapter(inputs: Input) -> Output:
    """Not possible from a handler.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(_NO_ADAPTERS)


async def unregister_adapter(inputs: Input) -> Output:
    """Not possible from a handler.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(_NO_ADAPTERS)


def _headers(inputs: Input) -> dict[str, str]:
    values = {name.lower(): inputs.get_property(name) for name in _PASSED_ON}
    if not values[_ADAPTER_HEADER.lower()] and inputs.contains_key("adapter"):
        values[_ADAPTER_HEADER.lower()] = inputs.get_as_string("adapter")
    return {name: str(value) for name, value in values.items() if value}


def _with_headers(output: Output, response: _bridge.Response) -> Output:
    for name, value in response.headers.items():
        if name.lower() not in _OF_THE_CONNECTION:
            output.add_property(name, value)
    return output


async def _streamed(response: _bridge.Response) -> AsyncGenerator[Output]:
    """A frame per chunk, then an empty one that says it was the last; a character cut in two waits for its rest."""
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
    try:
        async for chunk in response.chunks:
            yield _with_headers(_frame(decoder.decode(chunk), False), response)
        yield _with_headers(_frame(decoder.decode(b"", final=True), True), response)
    finally:
        await _bridge.close(response)


def _frame(text: str, last: bool) -> Output:
    return Output().add(Output.binary_encode({"data": text, "last": last}))
