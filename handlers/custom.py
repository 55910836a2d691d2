# SPDX-License-Identifier: Apache-2.0
"""The custom handler: the user's code in its worker, and when the default handler answers instead.

Made by `resolve.py`. The client's request stays as it came, so the default handler gets it whole whatever the user's
code did with its copy. How a failure is worded depends on how LMI would have reached the user's function.
"""

import logging
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Literal

import msgspec

from handlers.adapters import Change
from handlers.base import Handler, InferenceRequest, InferenceResponse
from handlers.user_code import UserCode
from handlers.worker.batches import Batches
from handlers.worker.process import CallFailed, CallTimedOut, LoadError, WorkerDied, WorkerProcess
from handlers.worker.protocol import Nothing, Opened, Reply
from handlers.worker.request import hook_request, worker_request
from handlers.worker.supervisor import StartUp, Supervisor, WorkerDown
from serving import metrics, overload, request_record
from serving.config.limits import Limits
from serving.errors import (
    AdapterRefused,
    AdapterSlotsExhausted,
    ConfigError,
    CustomCodeError,
    DefaultUnavailable,
    PayloadError,
    Problem,
)
from serving.schemas import content, forms

logger = logging.getLogger(__name__)

Fallback = Literal["on", "load-strict", "off"]
FALLBACK_HEADER = "x-custom-handler-fallback"
_DEFAULT_SHAPES = frozenset({"inputs", "prompt", "messages", "requestType"})
_NOT_COPIED = frozenset(
    {"content-length", "transfer-encoding", "connection", "host", "keep-alive", "te", "upgrade", "request_tracking_id"}
)
"""Response headers that belong to the connection; a handler that copies its request's headers must not set them."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_BODY = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong with one request in the user's code.

    Attributes:
        reason: as it stands in the header and in the metric of a fallback.
        error: the answer where there is no fallback.
    """

    reason: Literal["load_error", "runtime_error", "invalid_return", "worker_died"]
    error: CustomCodeError


class CustomHandler:
    """The user's function first, the default handler where that is the promise.

    Args:
        code: the user's file.
        supervisor: runs it.
        default: the default handler; None if there is none.
        fallback: `option.custom_handler_fallback`.
        limits: how much is taken on, and how long is waited.
        name: of the model, for refusals.
        batches: puts requests that come together into one call; None where each is a call of its own.

    Attributes:
        degraded: why the default handler answers instead of the user's; empty if it does not.
    """

    def __init__(
        self,
        code: UserCode,
        supervisor: Supervisor,
        default: Handler | None,
        fallback: Fallback,
        limits: Limits,
        name: str,
        batches: Batches | None = None,
    ):
        self._code = code
        self._supervisor = supervisor
        self._default = default
        self._fallback: Fallback = fallback if default is not None else "off"
        self._limits = limits
        self._name = name
        self._caller = batches or supervisor
        self._num_in_flight = 0
        self._load_error = ""
        self._start_up: StartUp | None = None

    @property
    def degraded(self) -> str:
        """As documented for the class."""
        if self._load_error:
            return f"load_error: {self._load_error}"
        return "" if self._supervisor.is_up else "worker_died: no worker is up; it is being started again"

    @property
    def is_direct(self) -> bool:
        """The user's file is the entry point itself."""
        return self._code.is_direct

    @property
    def worker_pid(self) -> int | None:
        """The worker's process, while one is up."""
        return self._supervisor.pid

    @property
    def num_deaths(self) -> int:
        """How often the worker has died."""
        return self._supervisor.num_deaths

    @property
    def num_in_flight(self) -> int:
        """Requests that are under way, in the user's code or in the default handler that stands in for it."""
        return self._num_in_flight

    @property
    def needs_default_now(self) -> bool:
        """The default handler's engine is better started at once than at the first request that needs it."""
        if self._load_error or self._start_up is None:
            return True
        return self._start_up.kind != "content" and self._code.is_named

    async def start(self) -> None:
        """Starts the worker and makes the start-up call.

        Raises:
            ConfigError: the user's code does not work, and `fallback` says that this stops the start (`VALIDATION`).
        """
        if self._code.syntax_error:
            lone = self._code.has_formatters and not self._code.has_handler
            self._refuse_or_degrade(self._code.syntax_error, "", stops=lone or self._fallback != "on")
            return
        try:
            outcome = self._start_up = await self._supervisor.start()
        except LoadError as error:
            self._refuse_or_degrade(str(error), error.traceback, stops=self._fallback != "on")
            return
        except WorkerDied as error:
            self._refuse_or_degrade(f"{error} in the start-up call", "", stops=self._fallback != "on")
            return
        stops = self._stops(outcome)
        if stops or (self._fallback == "on" and outcome.is_refusal):
            await self._supervisor.stop()
            self._refuse_or_degrade(outcome.text, outcome.traceback, stops)
        elif outcome.text:
            logger.warning("the handler's start-up call failed: %s\n%s", outcome.text, outcome.traceback)

    def _stops(self, outcome: StartUp) -> bool:
        """The start-up call ended in a way that the server must not start with."""
        if not outcome.text or self._fallback == "on":
            return False
        # LMI's service, where it wraps the function, takes no notice of what is raised in the start-up call.
        return self._fallback == "load-strict" or self._code.is_direct or outcome.kind == "refused"

    def _refuse_or_degrade(self, text: str, traceback: str, stops: bool) -> None:
        logger.error("%s does not work: %s\n%s", self._code.path, text, traceback)
        if stops:
            remedy = "mend it" + ("" if self._default is None else ", or set option.custom_handler_fallback=on")
            raise ConfigError([Problem("VALIDATION", f"{self._code.path.name}: {text}", remedy=remedy)])
        self._load_error = text
        logger.error("the default handler answers every request until that is mended (header %s)", FALLBACK_HEADER)

    async def reload(self, code: UserCode) -> None:
        """Replaces the running code by what the file holds now; the running one stays where that does not work.

        Args:
            code: the file, read again.

        Raises:
            ConfigError: the new code does not work (`VALIDATION`).
        """
        try:
            if code.syntax_error or not code.needs_worker:
                raise LoadError(code.syntax_error or "it has no handler any more")
            start = msgspec.structs.replace(self._supervisor.start_message, is_script=code.is_script)
            outcome = await self._supervisor.reload(start)
        except (LoadError, WorkerDied) as error:
            logger.error("%s is not reloaded: %s\n%s", code.path, error, getattr(error, "traceback", ""))
            raise ConfigError([Problem("VALIDATION", f"{code.path.name}: {error}")]) from None
        self._code = code
        self._load_error = ""
        self._start_up = outcome

    async def handle(self, request: InferenceRequest) -> InferenceResponse:
        """Answers one request with the user's code, or with the default handler.

        Raises:
            CustomCodeError: the user's code failed, and nothing else answers.
            EngineOverloaded: as many requests are under way as may be.
        """
        if self._load_error:
            error = self._error(424, self._load_error)
            return await self._fall_back(request, Failure("load_error", error))
        if self._num_in_flight >= self._limits.num_in_flight or self._supervisor.is_backed_up:
            raise overload.refused(self._name)
        self._num_in_flight += 1
        is_open = False
        try:
            outcome = await self._called(request)
            if isinstance(outcome, Failure):
                return await self._fall_back(request, outcome)
            if outcome is None:
                return await self._delegated(request)
            is_open = not isinstance(outcome.body, bytes)
            return outcome
        finally:
            if not is_open:
                self._num_in_flight -= 1

    async def close(self) -> None:
        """Ends the worker."""
        await self._supervisor.close()

    def has_hook(self, hook: str) -> bool:
        """The user's code defines this adapter hook."""
        return hook in self._code.hooks

    async def call_hook(self, hook: str, change: Change) -> str:
        """The message with which the user's adapter hook answers.

        Raises:
            AdapterRefused: it failed, refused, or is not there.
            AdapterSlotsExhausted: it ran out of memory.
        """
        if not self.has_hook(hook):
            raise AdapterRefused(f"module {self._code.path.stem!r} has no attribute {hook!r}")
        try:
            worker, call_id, answer = await self._supervisor.call(hook, hook_request(hook, change))
        except CallTimedOut:
            raise AdapterRefused(f"{hook} did not answer within {self._limits.first_output_s:g} s") from None
        except CallFailed as failure:
            logger.warning("%s failed\n%s", hook, failure.traceback)
            kind = AdapterSlotsExhausted if failure.reason == "memory" else AdapterRefused
            raise kind(str(failure)) from None
        except (WorkerDied, WorkerDown) as failure:
            raise AdapterRefused(f"{hook} failed: {failure or 'no worker is up'}") from None
        worker.drop(call_id)
        if not isinstance(answer, Reply):
            return ""
        if answer.status >= 300:
            refusal = AdapterRefused(answer.message)
            if answer.status in set(HTTPStatus):
                refusal.http_status = HTTPStatus(answer.status)
            raise refusal
        return answer.message

    async def _called(self, request: InferenceRequest) -> InferenceResponse | Failure | None:
        """The user's answer; None where it leaves the request to the default handler."""
        function = self._supervisor.start_message.handler
        called = await worker_request(request, function)
        try:
            worker, call_id, answer = await self._caller.call(function, called)
        except CallTimedOut:
            text = f"no answer within {self._limits.first_output_s:g} s; predict_timeout bounds the wait"
            raise self._error(HTTPStatus.GATEWAY_TIMEOUT, text) from None
        except CallFailed as failure:
            if failure.reason == "memory":
                logger.error("request %s: out of memory\n%s", request.request_id, failure.traceback)
                raise self._error(HTTPStatus.INSUFFICIENT_STORAGE, str(failure)) from None
            logger.warning("request %s: the handler failed\n%s", request.request_id, failure.traceback)
            return Failure(failure.reason, self._error(HTTPStatus.FAILED_DEPENDENCY, str(failure)))
        except WorkerDied as failure:
            return Failure("worker_died", _died(str(failure)))
        except WorkerDown:
            return Failure("worker_died", _died("no worker is up; it is being started again"))
        if isinstance(answer, Nothing):
            return None
        return self._response(worker, call_id, answer)

    def _response(self, worker: WorkerProcess, call_id: int, answer: Reply | Opened) -> InferenceResponse:
        headers = _headers(answer.properties)
        media_type = headers.pop("content-type", "")
        if isinstance(answer, Opened):
            body = self._body(worker, call_id, answer.first)
            return InferenceResponse(body, media_type, answer.status, headers, framing="lines")
        data = b"" if answer.status in _NO_BODY else answer.body
        delivered = (lambda: worker.cancel(call_id)) if answer.has_finalizer else None
        return InferenceResponse(data, media_type, answer.status, headers, on_delivered=delivered)

    async def _body(self, worker: WorkerProcess, call_id: int, first: bytes) -> AsyncGenerator[bytes]:
        """What the user's generator yields; after the first piece, a failure is the last line. Its end is counted."""
        try:
            async with aclosing(worker.chunks(call_id, first, self._limits.gap_s)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except TimeoutError:
            self._supervisor.suspect(worker, call_id)
            text = f"nothing more within {self._limits.gap_s:g} s; chunked_read_timeout bounds the wait"
            raise self._error(HTTPStatus.GATEWAY_TIMEOUT, text) from None
        except WorkerDied as failure:
            raise _died(str(failure)) from None
        finally:
            self._num_in_flight -= 1

    async def _delegated(self, request: InferenceRequest) -> InferenceResponse:
        """The handler returned None: the default one answers, or nobody does, with 204."""
        nobody = InferenceResponse(b"", "", HTTPStatus.NO_CONTENT)
        if self._default is None or (self._fallback == "off" and self._code.is_direct):
            return nobody
        request_record.restart()
        try:
            return await self._default.handle(request)
        except DefaultUnavailable:
            return nobody

    async def _fall_back(self, request: InferenceRequest, failure: Failure) -> InferenceResponse:
        """The default handler's answer to the original request, or the failure where that is no way out."""
        if self._default is None or self._fallback == "off" or not self._is_readable(request):
            raise failure.error
        request_record.restart()
        try:
            response = await _opened(await self._default.handle(request))
        except (PayloadError, DefaultUnavailable):
            raise failure.error from None
        metrics.CUSTOM_HANDLER_FALLBACK.labels(reason=failure.reason).inc()
        return replace(response, headers={**response.headers, FALLBACK_HEADER: failure.reason})

    def _is_readable(self, request: InferenceRequest) -> bool:
        """The default handler may be able to read the request: no engine is started for what it surely cannot."""
        if self._code.has_formatters or forms.is_multipart(request.content_type):
            return True  # a formatter may make anything readable, and of a form one part is the prompt
        try:
            return not _DEFAULT_SHAPES.isdisjoint(content.decode(request.content_type, request.body))
        except PayloadError:
            return False

    def _error(self, status: int, text: str) -> CustomCodeError:
        """LMI's words for a failure, by the way it reached the function."""
        code = HTTPStatus(status)
        if code == HTTPStatus.GATEWAY_TIMEOUT:
            return CustomCodeError(code, {"error": text, "code": int(code)})
        if self._code.is_direct:
            return CustomCodeError(code, {"code": int(code), "message": "invoke handler failure", "error": text})
        return CustomCodeError(code, {"error": f"Custom handler failed: {text}", "code": int(code)})


def _died(text: str) -> CustomCodeError:
    code = HTTPStatus.INTERNAL_SERVER_ERROR
    return CustomCodeError(code, {"error": f"Custom handler failed: {text}", "code": int(code)})


def _headers(properties: Mapping[str, str]) -> dict[str, str]:
    """An `Output`'s properties as response headers, in lower case; what no header can hold is left out or mended."""
    return {
        name.lower(): _sendable(text)
        for name, text in properties.items()
        if name.lower() not in _NOT_COPIED and _TOKEN.fullmatch(name)
    }


def _sendable(text: str) -> str:
    """One line, in bytes that a header can hold: UTF-8 where Latin-1 does not do."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if line.isascii() else line.encode("utf-8").decode("latin-1")


async def _opened(response: InferenceResponse) -> InferenceResponse:
    """The response with its first piece there, so that a refusal shows now."""
    if isinstance(response.body, bytes):
        return response
    body = response.body
    first = await anext(body, b"")

    async def pieces() -> AsyncGenerator[bytes]:
        async with aclosing(body):
            yield first
            async for piece in body:
                yield piece

    return replace(response, body=pieces())
