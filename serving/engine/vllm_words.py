# SPDX-License-Identifier: Apache-2.0
"""What clients say that vLLM 0.32 drops in silence or refuses, said in its words; and reasoning by both of its names.

At vLLM's serving objects, where its own routes and ours meet. Installed by `vllm_app.py`.
"""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import State
from starlette.responses import JSONResponse, Response
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import StructuredOutputsParams

from serving.errors import PayloadError
from serving.schemas import parameters

_BASE_MODEL = ("dummy", "tgi")
"""What TGI's clients call a model of which they know the address alone."""
_CREATE = {"openai_serving_chat": "create_chat_completion", "openai_serving_completion": "create_completion"}
_PARAMETERS = TypeAdapter(StructuredOutputsParams)
_REASONING = '"reasoning":'


def accept(state: State) -> None:
    """Has vLLM's chats and completions take these words."""
    for name, method in _CREATE.items():
        if (serving := getattr(state, name, None)) is not None:
            setattr(serving, method, _accepting(serving, getattr(serving, method)))


def attach(app: FastAPI, state: State) -> None:
    """Puts the route on `app` that tells of one model, whose name may have slashes."""

    async def model(name: str, request: Request) -> Response:
        listed = await state.openai_serving_models.show_available_models()
        for card in listed.data:
            if card.id == name:
                return JSONResponse(card.model_dump())
        status = HTTPStatus.NOT_FOUND
        refusal = create_error_response(f"The model `{name}` does not exist.", "NotFoundError", status, "model")
        return JSONResponse(refusal.model_dump(), status)

    app.add_api_route("/v1/models/{name:path}", model, methods=["GET"], summary="One model", tags=["openai"])


def _accepting(serving: Any, create: Callable[..., Any]) -> Callable[..., Any]:
    parser = getattr(serving, "parser_cls", None)
    has_reasoning = parser is not None and parser.reasoning_parser_cls is not None

    async def accepting(request: Any, raw_request: Any = None) -> Any:
        _name_base_model(request, serving)
        _constrain(request)
        answer = await create(request, raw_request)
        if not has_reasoning:
            return answer
        return _with_both_names(answer) if isinstance(answer, AsyncGenerator) else _named_twice(answer)

    return accepting


def _name_base_model(request: Any, serving: Any) -> None:
    models = serving.models
    is_served = models.is_base_model(request.model) or request.model in models.lora_requests
    if request.model in _BASE_MODEL and not is_served:
        request.model = models.base_model_paths[0].name


def _constrain(request: Any) -> None:
    """`guided_*` and TGI's `response_format` as structured outputs.

    Raises:
        VLLMValidationError: they are beside these, or say nothing that makes sense.
    """
    extra = request.model_extra or {}
    fields = {name: value for name, value in extra.items() if name.startswith("guided_") and value is not None}
    form = request.response_format
    schema = (form.model_extra or {}).get("value") if getattr(form, "type", "") == "json_object" else None
    if not fields and schema is None:
        return
    if request.structured_outputs is not None:
        fields["structured_outputs"] = request.structured_outputs
    if schema is not None:
        fields["guided_json"] = schema
        request.response_format = None
    try:
        parameters.guide(fields)
        if (given := fields.get("structured_outputs")) is not None:
            request.structured_outputs = _PARAMETERS.validate_python(given)
    except PayloadError as error:
        raise VLLMValidationError(str(error).partition(": ")[2], parameter="guided_json") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise VLLMValidationError(f"guided_{where}: {fault['msg']}", parameter=f"guided_{where}") from None


def _named_twice(answer: Any) -> Any:
    for choice in getattr(answer, "choices", ()):
        if (message := getattr(choice, "message", None)) is not None and message.reasoning is not None:
            message.reasoning_content = message.reasoning
    return answer


async def _with_both_names(events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    async with aclosing(events):
        async for event in events:
            yield _event_with_both_names(event) if _REASONING in event else event


def _event_with_both_names(event: str) -> str:
    made = json.loads(event.removeprefix("data: "))
    for choice in made.get("choices", ()):
        delta = choice.get("delta") or {}
        if delta.get("reasoning") is not None:
            delta["reasoning_content"] = delta["reasoning"]
    return f"data: {json.dumps(made, ensure_ascii=False, separators=(',', ':'))}\n\n"
