# SPDX-License-Identifier: Apache-2.0
"""`POST /invocations` and `POST /predictions/{model}`: LMI and OpenAI bodies, told apart by their fields.

With a token of an asynchronous result (`polling.py`) the same paths give that, whatever model, method and body are.
"""

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from serving import request_record
from serving.errors import HandlerOverridden, MethodNotAllowed, ModelNotFound
from serving.routers import polling
from serving.routers.context import attributes, context
from serving.routers.openapi import json_body
from serving.routers.streaming import answer
from serving.schemas import content, forms

router = APIRouter(tags=["inference"])

_OTHER_METHODS = ["GET", "PUT", "PATCH", "DELETE"]
_BODY = json_body(description="`inputs` and `parameters` (LMI), `prompt` or `messages` (OpenAI).")


@router.post("/invocations", summary="Generate", openapi_extra=_BODY)
async def invocations(request: Request) -> Response:
    """Answers the one model that is served; a name in query, headers, SageMaker's attributes or a form must be its."""
    if polling.is_poll(request):
        return polling.page(request)
    _check(_told(request, "model_name") or await _part(request, "model_name"), _told(request, "model_version"), request)
    return await _answer(request)


@router.post("/predictions/{model}", summary="Generate, naming the model", openapi_extra=_BODY)
@router.post("/predictions/{model}/{version}", summary="The same, naming its version", openapi_extra=_BODY)
@router.post("/models/{model}/invoke", summary="The same, as multi-model hosting asks for it", openapi_extra=_BODY)
async def predictions(model: str, request: Request, version: str = "") -> Response:
    """As `/invocations`; 404 for any other model than the one that is served."""
    if polling.is_poll(request):
        return polling.page(request)
    _check(model, version or _told(request, "model_version"), request)
    return await _answer(request)


@router.api_route("/invocations", methods=_OTHER_METHODS, include_in_schema=False)
@router.api_route("/predictions/{model}", methods=_OTHER_METHODS, include_in_schema=False)
@router.api_route("/predictions/{model}/{version}", methods=_OTHER_METHODS, include_in_schema=False)
@router.api_route("/models/{model}/invoke", methods=_OTHER_METHODS, include_in_schema=False)
async def by_another_method(request: Request, model: str = "", version: str = "") -> Response:
    """Gives a result; else tells an unknown model from a wrong method."""
    if polling.is_poll(request):
        return polling.page(request)
    _check(model, version, request)
    raise MethodNotAllowed


@router.options("/invocations", include_in_schema=False)
@router.options("/predictions/{model}", include_in_schema=False)
@router.options("/predictions/{model}/{version}", include_in_schema=False)
@router.options("/models/{model}/invoke", include_in_schema=False)
async def options(request: Request, model: str = "", version: str = "") -> Response:
    """LMI's answer where the model is there; browsers' questions are answered before they come here."""
    _check(model or _told(request, "model_name"), version or _told(request, "model_version"), request)
    return Response("{}\n", media_type="application/json")


async def _answer(request: Request) -> Response:
    if "handler" in request.headers or "handler" in attributes(request):
        raise HandlerOverridden
    request_record.note(handler=context(request).handler_name)
    run = polling.submit if polling.is_submission(request) else answer
    return await run(context(request).handler, request)


def _told(request: Request, name: str) -> str:
    """What the query, else a header, else SageMaker's attributes say of `name`; empty where none does."""
    return request.query_params.get(name) or request.headers.get(name) or attributes(request).get(name, "")


async def _part(request: Request, name: str) -> str:
    """The field `name` of a body that is a form; empty where there is none."""
    kind = request.headers.get("content-type")
    if not forms.is_form(kind):
        return ""
    try:
        body = await request.body()
    except ClientDisconnect:
        return ""  # whoever reads it for the answer finds that, too
    if name.encode() not in body or content.is_json(content.kind_of(kind), body):
        return ""
    fields = dict(await forms.fields(request.headers, body))
    return fields.get(name, b"").decode("utf-8", "replace")


def _check(model: str, version: str, request: Request) -> None:
    """Refuses another model, or version, than the one that is served; empty is either's default."""
    about = context(request)
    if model and model != about.model_name:
        raise ModelNotFound(model)
    if version and version != about.model_version:
        raise ModelNotFound(f"{about.model_name}, version {version}")
