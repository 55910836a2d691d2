# SPDX-License-Identifier: Apache-2.0
"""The messages between the server and its worker process: length-prefixed msgpack frames on a Unix socket pair.

Both sides import this module, so it knows nothing of either. A *call* is one request to a function of the user's
module; its id is the server's. It ends with `Reply`, `Nothing` or `Failed`, or, once it was `Opened`, with the last
`Chunk`. An *inference* is the opposite direction: the user's code asks the server's own engine; its id is the worker's.
"""

import struct
from typing import Any, Literal

import msgspec

WINDOW = 64
"""Chunks of one stream that may be on their way; then its generator is not resumed."""
_LENGTH = struct.Struct("!I")

Reason = Literal["runtime_error", "invalid_return", "memory"]


class _Message(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Arrays on the wire; the class's name is the tag."""


class Start(_Message):
    """The first message: what to load, and the properties that every call may look up.

    Attributes:
        file: of the user's module.
        module: its dotted name where it is one, else None.
        directory: the model directory; first on the module search path.
        path: further directories for the module search path.
        handler: name of the function that answers requests.
        is_script: the module is a SageMaker script instead.
        options: the model's options.
        num_threads: how many plain functions run at the same time.
        is_strict: only LMI's types may be returned.
    """

    file: str
    module: str | None
    directory: str
    path: list[str]
    handler: str
    is_script: bool
    options: dict[str, str]
    num_threads: int
    is_strict: bool


class Call(_Message):
    """One call of one of the module's functions.

    Attributes:
        id: of the call.
        function: its name.
        properties: headers and the like; HTTP header names are in lower case.
        headers: those of the properties' names that are HTTP headers.
        content: the request's parts, in order.
        request_id: for log lines.
    """

    id: int
    function: str
    properties: dict[str, str]
    headers: list[str]
    content: list[tuple[str, bytes]]
    request_id: str


class Cancel(_Message):
    """The call's answer is of no use any more, or was delivered; what it left to do (`finalize`) is done now."""

    id: int


class Credit(_Message):
    """So many chunks of the call's stream were taken."""

    id: int
    count: int


class Ping(_Message):
    """Asks whether the worker can still take calls, although this one was given up."""

    id: int


class Chunk(_Message):
    """A part of a stream's body; of a call towards the server, of an inference towards the worker."""

    id: int
    data: bytes
    is_last: bool


class InferenceOpened(_Message):
    """Status and headers of an inference; its chunks follow."""

    id: int
    status: int
    headers: dict[str, str]


class Loaded(_Message):
    """The module was executed; these of the names that matter it has."""

    names: list[str]


class LoadFailed(_Message):
    """Executing the module failed."""

    text: str
    traceback: str


class Reply(_Message):
    """A whole answer.

    Attributes:
        status: HTTP status.
        message: of LMI's `Output`.
        properties: response headers.
        body: the bytes.
        has_finalizer: something is left to do once the answer is delivered; `Cancel` then says that it is.
        parts: of the answer to a batch, the bytes per item.
    """

    id: int
    status: int
    message: str
    properties: dict[str, str]
    body: bytes
    has_finalizer: bool
    parts: list[bytes]


class Opened(_Message):
    """Status, headers and first piece of a streamed answer; the other fields as in `Reply`."""

    id: int
    status: int
    properties: dict[str, str]
    first: bytes
    is_last: bool


class Nothing(_Message):
    """The function returned None."""

    id: int


class Failed(_Message):
    """The call failed before its first byte.

    Attributes:
        reason: what kind of failure it is.
        text: one line for the client.
        traceback: for the log.
    """

    id: int
    reason: Reason
    text: str
    traceback: str


class Pong(_Message):
    """The loop runs, and there is a thread for the next call."""


class Log(_Message):
    """A line of the user's code for the server's log."""

    request_id: str
    level: int
    logger: str
    text: str


class Inference(_Message):
    """The user's code asks the server's default handler."""

    id: int
    body: bytes
    headers: dict[str, str]
    request_id: str


class InferenceCancel(_Message):
    """The inference's answer is of no use any more."""

    id: int


class InferenceCredit(_Message):
    """So many chunks of the inference's stream were taken."""

    id: int
    count: int


ToWorker = Start | Call | Cancel | Credit | Ping | InferenceOpened | Chunk
ToServer = (
    Loaded | LoadFailed | Reply | Opened | Chunk | Nothing | Failed | Pong | Log
    | Inference | InferenceCancel | InferenceCredit
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
to_worker = msgspec.msgpack.Decoder(ToWorker)
to_server = msgspec.msgpack.Decoder(ToServer)


def frame(message: ToWorker | ToServer) -> bytearray:
    """The message as it goes over the socket."""
    buffer = bytearray(_LENGTH.size)
    _encoder.encode_into(message, buffer, _LENGTH.size)
    _LENGTH.pack_into(buffer, 0, len(buffer) - _LENGTH.size)
    return buffer


def sendable(value: Any) -> Any:
    """The value with every text as something that UTF-8 can say: half a surrogate pair becomes its escape."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {sendable(key): sendable(item) for key, item in value.items()}
    if isinstance(value, msgspec.Struct):
        return type(value)(*(sendable(getattr(value, name)) for name in value.__struct_fields__))
    return value


class Frames:
    """Cuts received bytes into messages' bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytearray]:
        """The messages that are whole now."""
        buffer = self._buffer
        buffer += data
        found = []
        start = 0
        while len(buffer) - start >= _LENGTH.size:
            stop = start + _LENGTH.size + _LENGTH.unpack_from(buffer, start)[0]
            if stop > len(buffer):
                break
            found.append(buffer[start + _LENGTH.size : stop])
            start = stop
        del buffer[:start]
        return found
