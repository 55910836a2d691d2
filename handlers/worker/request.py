# SPDX-License-Identifier: Apache-2.0
"""An HTTP request in the words of LMI's `Input`: properties and content. Used by `handlers/custom.py`."""

from handlers.base import CUSTOM_ATTRIBUTES, InferenceRequest, custom_attributes
from handlers.worker.supervisor import WorkerRequest
from serving.schemas import forms


async def worker_request(request: InferenceRequest, function: str) -> WorkerRequest:
    """The request for the worker.

    Properties are the headers, the pairs of SageMaker's custom attributes as if they had been headers, the request's id
    and the function's name. Content is a part per query parameter, and then a part per form field, or the body.

    Raises:
        PayloadError: the body says that it is a form and is none.
    """
    properties = {name: text for name, text in request.headers.items() if name != CUSTOM_ATTRIBUTES}
    headers = list(properties)
    properties |= {"requestId": request.request_id, "handler": function}
    properties |= custom_attributes(request.headers.get(CUSTOM_ATTRIBUTES, ""))
    parts = [(name, text.encode()) for name, text in request.query]
    if forms.is_form(request.content_type):
        parts += await forms.fields(request.headers, request.body)
    else:
        parts.append(("data", request.body))
    return WorkerRequest(properties, headers, parts, request.request_id)
