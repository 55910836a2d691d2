# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong, as one tree; standard library only.

::

    ServingError                  http_status, code (LMI's `type`)
    |-- ConfigError               the server cannot start: one or more `Problem`s
    |-- ClientError
    |   |-- PayloadError          424: the body cannot be served as it is
    |   |   `-- AdapterNotFound   424: the request names an adapter that is not loaded
    |   |-- BadParameter          400: of a management route, or of a poll for a result
    |   |-- AdapterNotRegistered  404
    |   |-- AdapterExists         409
    |   |-- AdapterRefused        424
    |   |-- AdapterSlotsExhausted 507
    |   |-- Unauthorized          401
    |   |-- ModelExists           409
    |   |-- OneModelOnly          501
    |   |-- TensorsNotSupported   501
    |   |-- PayloadTooLarge       413
    |   |-- HandlerOverridden     400
    |   |-- BatchMismatch         400
    |   |-- ModelNotFound         404
    |   |   |-- KserveModelNotFound 404
    |   |   `-- WorkflowNotFound  404
    |   |-- RouteNotFound         404
    |   `-- MethodNotAllowed      405
    |-- CustomCodeError           424, 500, 504 or 507: the user's code failed in a request
    `-- EngineError               500: the engine failed on this request
        |-- EngineOverloaded      503: a queue limit of the engine is reached
        |   `-- ResultsFull       503: there is no room for a result that is fetched later
        |-- RequestTimeout        504: no output in time; the request was aborted in the engine
        |-- DefaultUnavailable    503: the default handler's engine did not start
        |-- EngineDead            500: the engine process is gone, ours is about to exit
        `-- ModelNotReady         503: starting, or shutting down

`serving/error_responses.py` turns these into a status and a body; nothing else chooses either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus


class ServingError(Exception):
    """Base of every error this server raises on purpose.

    Attributes:
        http_status: the status on LMI routes.
        code: LMI's name for this kind of error, the `type` of its JSON body.
    """

    http_status: HTTPStatus = HTTPStatus.INTERNAL_SERVER_ERROR
    code: str = "InternalServerException"


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why the server cannot start, told so that the reader knows what to change.

    Attributes:
        kind: one of the contract's names: `BAD_INT`, `VALIDATION`, `CONFLICT`, `ARGPARSE`, `ENGINE`, `NOT_FOUND`,
            `CAPACITY`, `UNSUPPORTED`, `PROPS_SYNTAX`, `USAGE`.
        text: what is wrong, the option and its value included.
        origin: where the value stands, such as `serving.properties line 3`; empty where there is none.
        remedy: what to do about it; may be empty.
    """

    kind: str
    text: str
    origin: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        where = f" ({self.origin})" if self.origin else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.text}{where}{remedy}"


class ConfigError(ServingError):
    """The configuration cannot be served; carries every problem found, not only the first."""

    code = "IllegalConfigurationException"

    def __init__(self, problems: Sequence[Problem]):
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    @property
    def exit_code(self) -> int:
        """2 for a command line that cannot be read, as every command does; 1 otherwise."""
        return 2 if any(problem.kind == "USAGE" for problem in self.problems) else 1


class ClientError(ServingError):
    """The caller's mistake; never logged as ours."""

    http_status = HTTPStatus.BAD_REQUEST
    code = "BadRequestException"


class PayloadError(ClientError):
    """The body cannot be read or cannot be served; 424 on LMI routes, as LMI's clients expect."""

    http_status = HTTPStatus.FAILED_DEPENDENCY


class AdapterNotFound(PayloadError):
    """The request names an adapter that is not loaded."""

    def __init__(self, name: str, available: Sequence[str]):
        super().__init__(
            f"Input parsing failed: LoRA adapter {name} not found in registry. Available adapters: {sorted(available)}"
        )


class BadParameter(ClientError):
    """A parameter of a management route, or of a poll for a result, is missing or cannot be read."""


class AdapterNotRegistered(ClientError):
    """A management route names an adapter, or its model, that is not there."""

    http_status = HTTPStatus.NOT_FOUND

    def __init__(self, name: str, kind: str = "adapter"):
        super().__init__(f"The {kind} {name} was not found")


class AdapterExists(ClientError):
    """The name is taken."""

    http_status = HTTPStatus.CONFLICT
    code = "IllegalArgumentException"

    def __init__(self, name: str):
        super().__init__(
            f"The adapter {name} already exists. If you want to replace it, please unregistering before registering a "
            "new adapter with the same name."
        )


class AdapterRefused(ClientError):
    """The adapter cannot be served, or not in this way; 424 as LMI documents."""

    http_status = HTTPStatus.FAILED_DEPENDENCY


class AdapterSlotsExhausted(ClientError):
    """There is no room for another adapter that stays loaded."""

    http_status = HTTPStatus.INSUFFICIENT_STORAGE


class Unauthorized(ClientError):
    """The server has keys and the request brings none of them."""

    http_status = HTTPStatus.UNAUTHORIZED
    code = "UnauthorizedException"

    def __init__(self) -> None:
        super().__init__("A key is needed: send the header `authorization: Bearer KEY`")


class PayloadTooLarge(ClientError):
    """The body is longer than `max_request_size` bytes."""

    http_status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class ModelNotFound(ClientError):
    """The path or a header names a model that is not the one served."""

    http_status = HTTPStatus.NOT_FOUND
    code = "ModelNotFoundException"

    def __init__(self, name: str):
        super().__init__(f"Model or workflow not found: {name}")


class WorkflowNotFound(ModelNotFound):
    """As `ModelNotFound`, where LMI describes models."""

    def __init__(self, name: str):
        ClientError.__init__(self, f"Workflow not found: {name}")


class KserveModelNotFound(ModelNotFound):
    """As `ModelNotFound`, on KServe's routes."""

    def __init__(self, name: str):
        ClientError.__init__(self, f"Model not found: {name}")


class TensorsNotSupported(ClientError):
    """KServe's tensor protocol is asked for."""

    http_status = HTTPStatus.NOT_IMPLEMENTED
    code = "NotImplementedException"

    def __init__(self) -> None:
        super().__init__("tensors are not supported; send the text to POST /invocations")


class ModelExists(ClientError):
    """A model is to be registered by the name of the one that is served."""

    http_status = HTTPStatus.CONFLICT
    code = "BadRequestException"

    def __init__(self, name: str):
        super().__init__(f"Workflow {name} is already registered.")


class OneModelOnly(ClientError):
    """A management call would change which models are served, or how often."""

    http_status = HTTPStatus.NOT_IMPLEMENTED
    code = "NotImplementedException"

    def __init__(self, served: str, instead: str):
        super().__init__(f"this server serves one model, {served}, for as long as it runs; {instead}")


class RouteNotFound(ClientError):
    """No route answers this path."""

    http_status = HTTPStatus.NOT_FOUND
    code = "ResourceNotFoundException"

    def __init__(self) -> None:
        super().__init__("Requested resource is not found, please refer to API document.")


class MethodNotAllowed(ClientError):
    """The path exists, but not for this method."""

    http_status = HTTPStatus.METHOD_NOT_ALLOWED
    code = "MethodNotAllowedException"

    def __init__(self) -> None:
        super().__init__("Requested method is not allowed, please refer to API document.")


class EngineError(ServingError):
    """The engine failed on this request; others may go on."""

    code = "EngineException"


class EngineOverloaded(EngineError):
    """The engine takes no more requests right now."""

    http_status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "WlmCapacityException"


class ResultsFull(EngineOverloaded):
    """There is no room for an answer that is to be fetched later."""


class RequestTimeout(EngineError):
    """The engine gave no output within the time that was set for it."""

    http_status = HTTPStatus.GATEWAY_TIMEOUT
    code = "TranslateException"


class EngineDead(EngineError):
    """The engine process is gone. Requests in flight get this, then our process exits."""

    def __init__(self) -> None:
        super().__init__("Inference Engine Failure")


class ModelNotReady(EngineError):
    """The engine is not ready to take requests, or not any more."""

    http_status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "WlmException"

    def __init__(self, name: str):
        super().__init__(f"Model is not ready: {name}")


class CustomCodeError(ServingError):
    """The user's handler failed, and no other one answers in its place.

    Attributes:
        body: what the client gets; its `code` is the status.
    """

    def __init__(self, status: HTTPStatus, body: dict[str, object]):
        super().__init__(str(body["error"]))
        self.http_status = status
        self.body = body


class HandlerOverridden(ClientError):
    """The request names another handler function than the server's."""

    def __init__(self) -> None:
        super().__init__("The handler can't be overridden in a request")


class BatchMismatch(ClientError):
    """A custom handler answered a batch of requests with more or fewer answers; 400, as in LMI."""

    def __init__(self, expected: int, actual: int):
        super().__init__(f"Batch output size mismatch, expected: {expected}, actual: {actual}")


class DefaultUnavailable(EngineError):
    """The default handler's engine did not start."""

    http_status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "WlmException"
