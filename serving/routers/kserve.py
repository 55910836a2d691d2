# SPDX-License-Identifier: Apache-2.0
"""KServe's routes, `/v2/health/*` and `/v2/models/*`, as far as they mean something without tensors."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from serving.errors import KserveModelNotFound, TensorsNotSupported
from serving.health import State
from serving.routers.context import context
from serving.routers.paging import pretty

router = APIRouter(tags=["kserve"])


@router.get("/v2/health/live", summary="KServe: is it alive?")
@router.get("/v2/health/ready", summary="KServe: can it take requests?")
async def health(request: Request) -> Response:
    """An empty line, with 424 when it cannot."""
    status = 200 if context(request).health.state is State.READY else 424
    return Response("\n", status, media_type="application/json")


@router.get("/v2/models/{model}/ready", summary="KServe: can the model take requests?")
@router.get("/v2/models/{model}/versions/{version}/ready", summary="The same of a version")
@router.get("/v2/models/{model}/version/{version}/ready", include_in_schema=False)
async def ready(model: str, request: Request, version: str = "") -> Response:
    """As `/v2/health/ready`; 404 for another model."""
    _check(model, version, request)
    return await health(request)


@router.get("/v2/models/{model}", summary="KServe: what the model takes")
@router.get("/v2/models/{model}/versions/{version}", summary="The same of a version")
@router.get("/v2/models/{model}/version/{version}", include_in_schema=False)
async def describe(model: str, request: Request, version: str = "") -> Response:
    """Texts in, texts out; the tensor protocol itself is not spoken here."""
    _check(model, version, request)
    own = context(request).model_version
    tensors = [{"name": name, "datatype": "BYTES", "shape": [1]} for name in ("inputs", "generated_text")]
    versions = [own] if own else []
    return pretty(
        {"name": model, "versions": versions, "platform": "vllm", "inputs": tensors[:1], "outputs": tensors[1:]}
    )


@router.post("/v2/models/{model}/infer", summary="Refused: send the text to /invocations")
@router.post("/v2/models/{model}/versions/{version}/infer", include_in_schema=False)
@router.post("/v2/models/{model}/version/{version}/infer", include_in_schema=False)
async def infer(model: str, request: Request, version: str = "") -> Response:
    """A model of texts has no use for tensors."""
    _check(model, version, request)
    raise TensorsNotSupported


def _check(model: str, version: str, request: Request) -> None:
    if not context(request).serves(model, version):
        raise KserveModelNotFound(model)
