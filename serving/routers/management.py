# SPDX-License-Identifier: Apache-2.0
"""What a model server tells about its one model, and the reload of the user's code: LMI's routes below `/models`."""

import json
import time
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from serving.errors import ConfigError, CustomCodeError, ModelNotFound, RouteNotFound, WorkflowNotFound
from serving.health import State
from serving.routers.context import Context, context

router = APIRouter(tags=["management"])

_STARTED = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


@router.get("/models", summary="The models: one")
async def models(request: Request) -> Response:
    """Name, place and state."""
    about = context(request)
    status = "READY" if about.health.state is State.READY else "FAILED"
    return _json({"models": [{"modelName": about.model_name, "modelUrl": about.model_url, "status": status}]})


@router.get("/models/{model}", summary="What the server knows about the model")
async def describe(model: str, request: Request) -> Response:
    """As LMI describes it; `degraded` says why the default handler stands in for the user's."""
    about = context(request)
    if model != about.model_name:
        raise WorkflowNotFound(model)
    return _json([{"workflowName": model, "models": [_described(about)]}])


@router.post("/models/{model}/reload", summary="Run the user's code as it is on disk now")
async def reload(model: str, request: Request) -> Response:
    """Takes effect between two requests, once the new code is loaded; until then, and if it fails, the old one runs."""
    about = context(request)
    if model != about.model_name:
        raise ModelNotFound(model)
    if about.reload is None:
        raise RouteNotFound
    try:
        await about.reload()
    except ConfigError as error:
        code = HTTPStatus.FAILED_DEPENDENCY
        raise CustomCodeError(code, {"code": int(code), "error": f"not reloaded: {error}"}) from None
    return _json({"status": f"Model {model} reloaded"})


def _described(about: Context) -> dict[str, Any]:
    degraded = about.custom.degraded if about.custom is not None else ""
    worker = {"id": 1, "startTime": _STARTED, "status": "READY"}
    device = {"deviceType": "gpu", "deviceId": 0} if about.has_devices else {"deviceType": "cpu", "deviceId": -1}
    return {
        "modelName": about.model_name,
        "modelUrl": about.model_url,
        "batchSize": about.settings.batch_size,
        "maxBatchDelayMillis": about.settings.max_batch_delay,
        "queueSize": about.settings.job_queue_size,
        "requestInQueue": about.requests.num_in_flight if about.requests is not None else 0,
        "status": "Healthy" if about.health.state is State.READY else "Unhealthy",
        "loadedAtStartup": True,
        **({"degraded": degraded} if degraded else {}),
        "workerGroups": [{"device": device, "minWorkers": 1, "maxWorkers": 1, "workers": [worker]}],
    }


def _json(body: Any) -> Response:
    return Response(json.dumps(body, indent=2) + "\n", media_type="application/json")
