# SPDX-License-Identifier: Apache-2.0
"""vLLM's errors become ours here, and nowhere else. Used by whatever asks vLLM for something on behalf of a request."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import GracefulHTTPError, VLLMClientError, VLLMServerError
from vllm.v1.engine.exceptions import EngineDeadError

from serving.engine.start_failure import one_line
from serving.errors import EngineDead, EngineError, EngineOverloaded, PayloadError, RequestTimeout, ServingError

_REFUSALS = {HTTPStatus.SERVICE_UNAVAILABLE: EngineOverloaded, HTTPStatus.GATEWAY_TIMEOUT: RequestTimeout}
"""Statuses that vLLM's `GracefulHTTPError` carries, the gate's included."""
_PARSING = "Input parsing failed: "
"""How LMI's clients know a faulty request."""
CLOSED = "this model was shut down"


def refuse(answer: Any) -> Any:
    """`answer`, unless it is vLLM's error object."""
    if not isinstance(answer, ErrorResponse):
        return answer
    text = one_line(answer.error.message)
    if (refusal := _REFUSALS.get(answer.error.code)) is not None:
        raise refusal(text)
    raise PayloadError(text) if answer.error.code < 500 else EngineError(text)


@contextmanager
def vllm_errors() -> Iterator[None]:
    """vLLM's own exceptions, whose classes say whose fault it was."""
    try:
        yield
    except EngineDeadError:
        raise EngineDead from None
    except GracefulHTTPError as error:
        other = PayloadError if error.http_status < 500 else EngineError
        raise _REFUSALS.get(error.http_status, other)(one_line(error)) from None
    except VLLMClientError as error:
        raise PayloadError(f"{_PARSING}{one_line(error)}") from None
    except VLLMServerError as error:
        raise EngineError(one_line(error) if str(error) else "the engine failed on this request") from error


@contextmanager
def request_errors() -> Iterator[None]:
    """While vLLM reads a request, plain Python exceptions are faults of the request, too."""
    try:
        with vllm_errors():
            yield
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}" for fault in error.errors())
        raise PayloadError(f"{_PARSING}{one_line(faults)}") from None
    except (ValueError, TypeError, OverflowError, NotImplementedError) as error:
        raise PayloadError(f"{_PARSING}{one_line(error)}") from None


@contextmanager
def odd_values() -> Iterator[None]:
    """vLLM looks into a body before it has checked what kind of values stand there."""
    try:
        yield
    except (AttributeError, LookupError) as error:
        raise PayloadError(f"{_PARSING}{one_line(error)}") from None


@contextmanager
def _plainly() -> Iterator[None]:
    """Leaves LMI's words out of an error, for a program that calls us."""
    try:
        yield
    except PayloadError as error:
        raise PayloadError(str(error).removeprefix(_PARSING)) from None


@contextmanager
def user_errors() -> Iterator[None]:
    """As `request_errors`, in a program that calls us."""
    with _plainly(), request_errors():
        yield


@contextmanager
def engine_errors() -> Iterator[None]:
    """While the engine works on what it has accepted: whatever fails is its own fault, unless vLLM says otherwise."""
    try:
        with _plainly(), vllm_errors():
            yield
    except ServingError:
        raise
    except Exception as error:
        raise EngineError(one_line(error)) from error
