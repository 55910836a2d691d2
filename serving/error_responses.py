# SPDX-License-Identifier: Apache-2.0
"""The one place where an error becomes a status and a body, or the last line of a stream.

LMI routes speak LMI's envelopes: `{"code", "error"}` for payload faults, `{"code", "type", "message"}` for everything
else (tests/conformance/data/http.yaml); a failure of the user's code brings its body with it. TGI's routes speak TGI's
flat body, KServe's `{"error"}`. vLLM's routes keep upstream's handlers, which `vllm_app.attach` registers.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Literal

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from serving import request_record
from serving.errors import (
    ClientError,
    CustomCodeError,
    EngineDead,
    EngineError,
    EngineOverloaded,
    MethodNotAllowed,
    ModelNotReady,
    PayloadError,
    PayloadTooLarge,
    RequestTimeout,
    RouteNotFound,
    ServingError,
    Unauthorized,
)
from serving.formatters.base import Framing

_UPSTREAM_PREFIXES = ("/v1/", "/inference/", "/cohere/")
_CONFIGURED: Mapping[type[ServingError], str] = {
    EngineOverloaded: "throttle_error_http_code",
    ModelNotReady: "wlm_error_http_code",
    RequestTimeout: "timeout_http_code",
}
"""Errors whose status on LMI's routes is one of the server's keys."""
_CONFIGURED_STATUSES: Mapping[HTTPStatus, str] = {
    HTTPStatus.BAD_REQUEST: "bad_request_http_code",
    HTTPStatus.INTERNAL_SERVER_ERROR: "server_error_http_code",
}
"""Statuses that any other error may have, and the server's keys for them."""
_KSERVE_PREFIXES = ("/v2/models/", "/v2/health/")
INTERNAL = "internal error; the server's log has the details"
"""What a client is told of a bug."""
CLIENT_LEFT = 499
"""Never sent, as nobody is there; it stands in the log and the metrics."""
TGI_PATHS = frozenset({"/", "/generate", "/generate_stream", "/info"})


def route_path(scope: Scope) -> str:
    """The path below `--root-path`, which is what routes are matched against."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def family(scope: Scope) -> Literal["lmi", "tgi", "openai"]:
    """Whose routes a request is for, and so whose envelope an error has; the app may name further paths as vLLM's."""
    path = route_path(scope)
    further = getattr(scope["app"].state, "upstream_paths", ()) if "app" in scope else ()
    if path.startswith(_UPSTREAM_PREFIXES) or path in further:
        return "openai"
    return "tgi" if path in TGI_PATHS else "lmi"


def unauthorized(scope: Scope) -> Response:
    """A key is missing or wrong, in the words of the route's family."""
    if family(scope) == "openai":
        return Response('{"error": "Unauthorized"}', HTTPStatus.UNAUTHORIZED, media_type="application/json")
    return response(Unauthorized(), scope)


def response(error: ServingError, scope: Scope) -> Response:
    """The answer on one of our routes; on LMI's and TGI's the connection is closed, as LMI does after every error."""
    request_record.note(error=error.code)
    headers = {"connection": "close"}
    if isinstance(error, PayloadTooLarge):
        return Response(status_code=error.http_status, headers=headers)
    if family(scope) == "openai":
        return _openai(HTTPException(error.http_status, str(error)))
    if family(scope) == "tgi":
        tgi_status, flat = _tgi(error)
        return Response(_encoded(flat), tgi_status, headers, media_type="application/json")
    status = _status(error, scope)
    if route_path(scope).startswith(_KSERVE_PREFIXES):
        body = _encoded({"error": str(error)}, indent=2)
        return Response(body + b"\n", status, headers, media_type="application/json")
    body = _encoded(_envelope(error, status), indent=None if isinstance(error, PayloadError | CustomCodeError) else 2)
    return Response(body + b"\n", status, headers, media_type="application/json")


async def unexpected(error: Exception, scope: Scope) -> Response:
    """The answer to a failure that nobody foresaw: its text is for the log. On vLLM's routes vLLM words it."""
    if family(scope) == "openai" and "app" in scope:
        handler = scope["app"].exception_handlers.get(Exception)
        if handler is not None:
            made: Response = await handler(Request(scope), error)
            return made
    return response(ServingError(INTERNAL), scope)


def last_line(error: ServingError, framing: Framing) -> bytes:
    """What ends a stream that failed after its first byte, in the stream's own framing."""
    request_record.note(error=error.code)
    code = int(error.http_status)
    if framing == "lmi":
        body: dict[str, object] = {"error": {"message": str(error), "type": error.code, "code": code}}
    elif framing == "tgi":
        body = _tgi(error)[1]
    else:
        body = {"error": str(error), "code": code}
    data = _encoded(body)
    return {"events": b"data: %s\n\n", "tgi": b"data:%s\n\n"}.get(framing, b"%s\n") % data


def register(app: FastAPI) -> None:
    """Answers our errors, and unknown routes and methods, on `app`; call after vLLM's handlers are there."""

    async def ours(request: Request, error: ServingError) -> Response:
        return response(error, request.scope)

    async def routing(request: Request, error: HTTPException) -> Response:
        if family(request.scope) == "openai":
            return _openai(error)
        if error.status_code == HTTPStatus.NOT_FOUND:
            return response(RouteNotFound(), request.scope)
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            return response(MethodNotAllowed(), request.scope)
        return _openai(error)

    app.add_exception_handler(ServingError, ours)  # type: ignore[arg-type]  # starlette types handlers by Exception
    app.add_exception_handler(HTTPException, routing)  # type: ignore[arg-type]


def _encoded(body: dict[str, object], indent: int | None = None) -> bytes:
    """JSON; a text of the client's may hold half of a surrogate pair, which stays the escape that it came as."""
    return json.dumps(body, ensure_ascii=False, indent=indent).encode("utf-8", "backslashreplace")


def _status(error: ServingError, scope: Scope) -> int:
    """The error's own status, unless the server's keys have another for its kind."""
    app = scope.get("app")
    if app is None or isinstance(error, CustomCodeError):
        return int(error.http_status)
    settings = app.state.lmi.settings
    kind = next((name for kind, name in _CONFIGURED.items() if isinstance(error, kind)), "")
    by_status = _CONFIGURED_STATUSES.get(error.http_status, "")
    return int(getattr(settings, kind or by_status, error.http_status))


def _envelope(error: ServingError, code: int) -> dict[str, object]:
    if isinstance(error, CustomCodeError):
        return error.body
    if isinstance(error, PayloadError):
        return {"code": code, "error": str(error)}
    return {"code": code, "type": error.code, "message": str(error)}


def _tgi(error: ServingError) -> tuple[HTTPStatus, dict[str, object]]:
    """TGI's status and flat body; its clients choose their exception by `error_type`."""
    if isinstance(error, EngineOverloaded | ModelNotReady):
        status, kind = HTTPStatus.TOO_MANY_REQUESTS, "overloaded"
    elif isinstance(error, ClientError):
        status, kind = HTTPStatus.UNPROCESSABLE_ENTITY, "validation"
        if error.http_status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.METHOD_NOT_ALLOWED):
            status = error.http_status
    elif isinstance(error, EngineError) and not isinstance(error, EngineDead):
        status, kind = HTTPStatus.FAILED_DEPENDENCY, "generation"
    else:
        status, kind = HTTPStatus.INTERNAL_SERVER_ERROR, "incomplete_generation"
    return status, {"error": str(error), "error_type": kind}


def _openai(error: HTTPException) -> Response:
    """OpenAI's envelope, as vLLM words it."""
    phrase = HTTPStatus(error.status_code).phrase
    body = {"error": {"message": error.detail, "type": phrase, "param": None, "code": error.status_code}}
    return Response(json.dumps(body), error.status_code, error.headers, media_type="application/json")
