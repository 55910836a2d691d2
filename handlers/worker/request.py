# SPDX-License-Identifier: Apache-2.0
"""An HTTP request in the words of LMI's `Input`: properties and content. Used by `handlers/custom.py`."""

import re
from typing import TYPE_CHECKING

from handlers.base import CUSTOM_ATTRIBUTES, InferenceRequest, custom_attributes
from handlers.worker.supervisor import WorkerRequest
from serving.schemas import forms

if TYPE_CHECKING:
    from handlers.adapters import Change


_OURS = re.compile(
    r"model_dir|device_id|cluster_size|(tensor|pipeline)_parallel_degree|requestid|handler|batch_(size|\d{3}.*)",
    re.IGNORECASE,
)
"""Properties that the server sets: what code trusts must not come from a client."""


async def worker_request(request: InferenceRequest, function: str) -> WorkerRequest:
    """The request for the worker.

    Properties are the headers, the pairs of SageMaker's custom attributes as if they had been headers, the request's id
    and the function's name. Content is a part per query parameter, and then a part per form field, or the body.

    Raises:
        PayloadError: the body says that it is a form and is none.
    """
    properties = {name: text for name, text in request.headers.items() if name != CUSTOM_ATTRIBUTES}
    headers = list(properties)
    properties |= custom_attributes(request.headers.get(CUSTOM_ATTRIBUTES, ""))
    properties = {name: text for name, text in properties.items() if not _OURS.fullmatch(name)}
    properties |= {"requestId": request.request_id, "handler": function}
    parts = [(name, text.encode()) for name, text in request.query]
    if forms.is_form(request.content_type):
        parts += await forms.fields(request.headers, request.body)
    else:
        parts.append(("data", request.body))
    return WorkerRequest(properties, headers, parts, request.request_id)


def hook_request(hook: str, change: "Change") -> WorkerRequest:
    """A change of an adapter for the user's hook: what is asked for as properties, all parameters as content."""
    given = {"handler": hook, "name": change.name, "alias": change.alias, "src": change.src}
    properties = {name: text for name, text in given.items() if text}
    return WorkerRequest(properties, [], [(name, text.encode()) for name, text in change.parameters], "")
