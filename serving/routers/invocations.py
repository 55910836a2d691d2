# SPDX-License-Identifier: Apache-2.0
"""`POST /invocations` and `POST /predictions/{model}`: LMI and OpenAI bodies, told apart by their fields.

With a token of an asynchronous result (`polling.py`) the same paths give that, whatever model, method and body are.
"""

from fastapi import APIRouter, Request
from starlette.responses import Response

from handlers.base import CUSTOM_ATTRIBUTES, custom_attributes
from serving import request_record
from serving.errors import HandlerOverridden, MethodNotAllowed, ModelNotFound
from serving.routers import polling
from serving.routers.context import context
from serving.routers.openapi import json_body
from serving.routers.streaming import answer

router = APIRouter(tags=["inference"])

_OTHER_METHODS = ["GET", "PUT", "PATCH", "DELETE"]
_BODY = json_body(description="`inputs` and `parameters` (LMI), `prompt` or `messages` (OpenAI).")


@router.post("/invocations", summary="Generate", openapi_extra=_BODY)
async def invocations(request: Request) -> Response:
    """Answers the one model that is served; a name in the query or in SageMaker's attributes must be its own."""
    if polling.is_poll(request):
        return polling.page(request)
    attributes = custom_attributes(request.headers.get(CUSTOM_ATTRIBUTES, ""))
    if named := request.query_params.get("model_name") or attributes.get("model_name"):
        _check(named, request)
    return await _answer(request)


@router.post("/predictions/{model}", summary="Generate, naming the model", openapi_extra=_BODY)
@router.post("/models/{model}/invoke", summary="The same, as multi-model hosting asks for it", openapi_extra=_BODY)
async def predictions(model: str, request: Request) -> Response:
    """As `/invocations`; 404 for any other model than the one that is served."""
    if polling.is_poll(request):
        return polling.page(request)
    _check(model, request)
    return await _answer(request)


@router.api_route("/invocations", methods=_OTHER_METHODS, include_in_schema=False)
@router.api_route("/predictions/{model}", methods=_OTHER_METHODS, include_in_schema=False)
@router.api_route("/models/{model}/invoke", methods=_OTHER_METHODS, include_in_schema=False)
async def by_another_method(request: Request) -> Response:
    """Gives a result; else tells an unknown model from a wrong method."""
    if polling.is_poll(request):
        return polling.page(request)
    if (model := request.path_params.get("model")) is not None:
        _check(model, request)
    raise MethodNotAllowed


async def _answer(request: Request) -> Response:
    attributes = custom_attributes(request.headers.get(CUSTOM_ATTRIBUTES, ""))
    if "handler" in request.headers or "handler" in map(str.lower, attributes):
        raise HandlerOverridden
    request_record.note(handler=context(request).handler_name)
    run = polling.submit if polling.is_submission(request) else answer
    return await run(context(request).handler, request)


def _check(model: str, request: Request) -> None:
    if model != context(request).model_name:
        raise ModelNotFound(model)
