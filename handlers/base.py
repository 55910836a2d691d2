# SPDX-License-Identifier: Apache-2.0
"""The contract between routers and handlers: one request in, one response out, streamed or not."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serving.errors import PayloadError
from serving.formatters.base import Framing

CUSTOM_ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
"""SageMaker's header for whatever else a client wants to say."""
_ADAPTER_HEADER = "x-amzn-sagemaker-adapter-identifier"


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One request as it came in.

    Attributes:
        body: the raw bytes.
        headers: lower-case names; the last of a repeated header.
        request_id: the id in logs and in the `x-request-id` header of the answer.
        query: the parameters of the URL, in order.
    """

    body: bytes
    headers: Mapping[str, str]
    request_id: str
    query: Sequence[tuple[str, str]] = ()

    @property
    def content_type(self) -> str | None:
        """The header as sent."""
        return self.headers.get("content-type")


@dataclass(frozen=True, slots=True)
class InferenceResponse:
    """One answer.

    Attributes:
        body: all bytes, or a generator of what to write, one item per write. The router pulls the first item before it
            sends the status, so that every failure up to there is an ordinary error, and always closes the generator.
        media_type: the exact `content-type`; empty for none.
        framing: how a stream says that it failed.
        on_delivered: called once, when an answer that is not streamed was sent or its client left.
    """

    body: bytes | AsyncGenerator[bytes]
    media_type: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    framing: Framing = "lmi"
    on_delivered: Callable[[], None] | None = None


class Handler(Protocol):
    """What to do with requests; one object per server."""

    async def start(self) -> None:
        """Gets ready; called once, before the first request."""
        ...

    async def handle(self, request: InferenceRequest) -> InferenceResponse:
        """Answers one request; cancelled when the client leaves.

        Raises:
            ServingError: what went wrong before the first byte.
        """
        ...

    async def close(self) -> None:
        """Releases what `start` took; called once, after the last request."""
        ...


def custom_attributes(header: str) -> dict[str, str]:
    """The pairs of `a=1;b=2`; what has no `=` is left out."""
    pairs = [part.partition("=") for part in header.split(";")]
    return {name.strip(): text.strip() for name, separator, text in pairs if separator}


def adapter_of(request: InferenceRequest, payload: dict[str, Any]) -> str:
    """The adapter that a request names, which is taken out of `payload`; empty for the base model.

    The header wins over the body, and that over the query.

    Raises:
        PayloadError: the body names several.
    """
    named = payload.pop("adapters", None)
    if header := request.headers.get(_ADAPTER_HEADER):
        return header
    if isinstance(named, list) and len(named) == 1:
        named = named[0]
    if named is not None and not isinstance(named, str):
        raise PayloadError("Input parsing failed: adapters must be the name of one adapter")
    return named or dict(request.query).get("adapter", "")


def adapters_of(request: InferenceRequest, payload: Mapping[str, Any]) -> list[str]:
    """One adapter per prompt, empty for the base model, where the body has a list of several; else an empty list.

    Raises:
        PayloadError: the body has not as many prompts, or something else for a name.
    """
    names = payload.get("adapters")
    if not isinstance(names, list) or len(names) < 2 or request.headers.get(_ADAPTER_HEADER):
        return []
    inputs = payload.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != len(names):
        raise PayloadError(f"Input parsing failed: {len(names)} adapters need as many prompts, as a list of inputs")
    if not all(name is None or isinstance(name, str) for name in names):
        raise PayloadError("Input parsing failed: adapters must be names, or null for the base model")
    return [name or "" for name in names]
