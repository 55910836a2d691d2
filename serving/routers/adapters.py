# SPDX-License-Identifier: Apache-2.0
"""LMI's routes for LoRA adapters, with and without the model in front: list, register, describe, update, unregister.

Arguments come from the query; what they mean is `handlers/adapters.py`'s business. vLLM has two routes for the same,
which take JSON.
"""

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from handlers.adapters import AdapterRegistry, Change
from serving.errors import AdapterExists, AdapterNotRegistered, AdapterRefused, BadParameter
from serving.routers.context import context
from serving.routers.paging import page, pretty
from serving.schemas.adapters import LoadAdapter, UnloadAdapter

router = APIRouter(tags=["adapters"])

_ALIAS = "x-amzn-sagemaker-adapter-alias"


@router.get("/adapters", summary="The adapters, by name")
@router.get("/models/{model}/adapters", summary="The same, naming the model")
async def list_all(request: Request, model: str = "") -> Response:
    """One page of them; `nextPageToken` says where the next one begins."""
    adapters = (await _registry(request, model)).all()
    return page(request, "adapters", [adapter.described() for adapter in adapters])


@router.post("/adapters", summary="Load an adapter: name, src, preload, pin")
@router.post("/models/{model}/adapters", summary="The same, naming the model")
async def register(request: Request, model: str = "") -> Response:
    """Answers once the adapter can be used."""
    registry = await _registry(request, model)
    for name in ("name", "src"):
        if not request.query_params.get(name):
            raise BadParameter(f"The parameter {name} is required")
    return pretty({"status": await registry.register(_change(request, request.query_params["name"]))})


@router.get("/adapters/{name}", summary="One adapter")
@router.get("/models/{model}/adapters/{name}", summary="The same, naming the model")
async def describe(request: Request, name: str, model: str = "") -> Response:
    """Where it comes from, and how it is loaded."""
    return pretty((await _registry(request, model)).describe(name).described())


@router.post("/adapters/{name}/update", summary="Change preload or pin of an adapter")
@router.post("/models/{model}/adapters/{name}/update", summary="The same, naming the model")
async def update(request: Request, name: str, model: str = "") -> Response:
    """Answers once it is done."""
    return pretty({"status": await (await _registry(request, model)).update(_change(request, name))})


@router.delete("/adapters/{name}", summary="Unload an adapter")
@router.delete("/models/{model}/adapters/{name}", summary="The same, naming the model")
async def unregister(request: Request, name: str, model: str = "") -> Response:
    """Answers once its memory is free; the requests that it has are answered first."""
    return pretty({"status": await (await _registry(request, model)).unregister(_change(request, name))})


@router.post("/v1/load_lora_adapter", summary="vLLM's way to load an adapter")
async def load(request: Request, body: LoadAdapter) -> Response:
    """As `POST /adapters`, in vLLM's words; `load_inplace` replaces one of the same name."""
    change = Change(body.lora_name, body.lora_path, is_3d_weight=body.is_3d_lora_weight)
    try:
        await (await _registry(request, "")).register(change, body.load_inplace)
    except AdapterExists:
        raise BadParameter(
            f"The lora adapter '{body.lora_name}' has already been loaded. If you want to load the adapter in place, "
            "set 'load_inplace' to True."
        ) from None
    except AdapterRefused as error:
        raise BadParameter(str(error)) from None
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/v1/unload_lora_adapter", summary="vLLM's way to unload an adapter")
async def unload(request: Request, body: UnloadAdapter) -> Response:
    """As `DELETE /adapters/{name}`, in vLLM's words."""
    try:
        await (await _registry(request, "")).unregister(Change(body.lora_name))
    except AdapterNotRegistered:
        raise AdapterNotRegistered(body.lora_name, "lora adapter") from None
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


async def _registry(request: Request, model: str) -> AdapterRegistry:
    about = context(request)
    if model and model != about.model_name:
        raise AdapterNotRegistered(model, "model")
    if about.adapters is None:
        raise BadParameter("LoRA is not enabled.")
    return await about.adapters()


def _change(request: Request, name: str) -> Change:
    query = request.query_params
    return Change(
        name,
        query.get("src"),
        _flag(query.get("preload")),
        _flag(query.get("pin")),
        alias=request.headers.get(_ALIAS, ""),
        parameters=query.multi_items(),
    )


def _flag(text: str | None) -> bool | None:
    """As LMI reads it: everything but `true` is false."""
    return None if text is None else text.strip().lower() == "true"
