# SPDX-License-Identifier: Apache-2.0
"""The routes of Text Generation Inference: `/`, `/generate`, `/generate_stream`, `/info`."""

import json
from importlib.metadata import version

from fastapi import APIRouter, Request
from starlette.responses import Response

from serving import error_responses, request_record
from serving.errors import ModelNotReady
from serving.routers.context import context
from serving.routers.openapi import json_body
from serving.routers.streaming import answer

router = APIRouter(tags=["tgi"])

_BODY = json_body(required=["inputs"], properties={"inputs": {"type": "string"}, "parameters": {"type": "object"}})


@router.post("/", summary="Generate; the answer is in a list, or a stream", openapi_extra=_BODY)
@router.post("/generate", summary="Generate", openapi_extra=_BODY)
@router.post("/generate_stream", summary="Generate, streamed", openapi_extra=_BODY)
async def generate(request: Request) -> Response:
    """Answers a body of TGI's clients; the route decides about streaming where it has a word to say."""
    request_record.note(handler="tgi")
    return await answer(context(request).tgi[error_responses.route_path(request.scope)], request)


@router.get("/info", summary="The model and its limits")
async def info(request: Request) -> Response:
    """What TGI's clients ask before they begin."""
    facts = context(request).facts
    if facts is None:
        raise ModelNotReady(context(request).model_name)
    body = {
        "model_id": facts.model_id,
        "model_dtype": facts.dtype,
        "max_input_tokens": facts.max_model_len - 1,
        "max_input_length": facts.max_model_len - 1,
        "max_total_tokens": facts.max_model_len,
        "max_client_batch_size": 1,
        "max_batch_size": facts.max_num_seqs,
        "router": "lmi-server",
        "version": version("lmi-server"),
    }
    return Response(json.dumps(body), media_type="application/json")
