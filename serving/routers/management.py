# SPDX-License-Identifier: Apache-2.0
"""LMI's management routes, as far as they mean something for a server of one model; others say what to do instead."""

import logging
import re
import time
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from serving import lmi_metrics
from serving.errors import (
    BadParameter,
    ConfigError,
    CustomCodeError,
    ModelExists,
    ModelNotFound,
    OneModelOnly,
    RouteNotFound,
    WorkflowNotFound,
)
from serving.health import State
from serving.routers.context import Context, context
from serving.routers.paging import number, page, pretty
from serving.schemas.content import as_object, decode_any

router = APIRouter(tags=["management"])
versions = APIRouter(tags=["management"])
"""The same of a model's version, by paths that others must have their turn at first."""

_LOGGERS = ("serving", "handlers", "vllm", "uvicorn.error")
_STARTED = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


@router.get("/models", summary="The models: one")
async def models(request: Request) -> Response:
    """Name, place and state."""
    about = context(request)
    status = "READY" if about.health.state is State.READY else "FAILED"
    model = {"modelName": about.model_name, **_version(about), "modelUrl": about.model_url, "status": status}
    return page(request, "models", [model])


@router.get("/workflows", summary="The same by LMI's other name for it")
async def workflows(request: Request) -> Response:
    """The model's name."""
    about = context(request)
    return page(request, "workflows", [{"workflowName": about.model_name, **_version(about)}])


@router.get("/models/{model}", summary="What the server knows about the model")
@router.get("/workflows/{model}", include_in_schema=False)
@versions.get("/models/{model}/{version}", summary="The same of a version")
@versions.get("/workflows/{model}/{version}", include_in_schema=False)
async def describe(model: str, request: Request, version: str = "") -> Response:
    """As LMI describes it; `degraded` says why the default handler stands in for the user's."""
    about = context(request)
    if not about.serves(model, version):
        raise WorkflowNotFound(model)
    return pretty([{"workflowName": model, **_version(about), "models": [_described(about)]}])


@router.post("/models", summary="Refused: the model is chosen at start")
async def register(request: Request) -> Response:
    """Says which model is served, and that it stays."""
    about = context(request)
    given = dict(request.query_params)
    if request.headers.get("content-type", "").startswith("application/json"):
        body = as_object(decode_any("application/json", await request.body() or b"{}"))
        given |= {name: str(value) for name, value in body.items()}
    url = given.get("url")
    if not url:
        raise BadParameter("Parameter url is required.")
    if given.get("model_name", _named(url)) == about.model_name:
        raise ModelExists(about.model_name)
    raise OneModelOnly(about.model_name, "start another server for another model")


@router.put("/models/{model}", summary="Refused unless it asks for the one copy that there is")
@versions.put("/models/{model}/{version}", include_in_schema=False)
async def scale(model: str, request: Request, version: str = "") -> Response:
    """Copies are made at start."""
    _check(model, request, version)
    least, most = number(request, "min_worker", -1), number(request, "max_worker", -1)
    if not (least in (-1, 0, 1) and most in (-1, 1)):
        raise OneModelOnly(model, "copies are made at start, by maxWorkers or option.data_parallel_size")
    text = f'Workflow "{model}" worker scaled. New Worker configuration min workers:{least} max workers:{most}'
    return pretty({"status": text})


@router.delete("/models/{model}", summary="Refused: stop the server instead")
@versions.delete("/models/{model}/{version}", include_in_schema=False)
async def unregister(model: str, request: Request, version: str = "") -> Response:
    """The model is there as long as the server is."""
    _check(model, request, version)
    raise OneModelOnly(model, "stop the server to end it")


@router.api_route("/server/logging", methods=["GET", "POST", "PUT"], summary="Log more, or less: level")
async def log_level(request: Request) -> Response:
    """Takes effect at once; without a level it is `info` again."""
    name = request.query_params.get("level", "info").strip().upper()
    level = {"TRACE": logging.DEBUG, "WARN": logging.WARNING}.get(name) or logging.getLevelNamesMapping().get(name)
    if level is None:
        raise BadParameter(f"The parameter level must be one of debug, info, warning, error, not {name.lower()!r}")
    for logger in _LOGGERS:
        logging.getLogger(logger).setLevel(level)
    return pretty({"status": "OK"})


@router.get("/server/metrics", summary="Metrics under LMI's names; all are at /metrics")
async def metrics(request: Request) -> Response:
    """Where SERVING_PROMETHEUS asks for it; `name[]` chooses some of them."""
    about = context(request)
    if not about.settings.prometheus:
        raise BadParameter(
            "Prometheus is not enabled, set SERVING_PROMETHEUS environment var to true to enable prometheus metrics; "
            "GET /metrics is always there"
        )
    text = lmi_metrics.text(about.model_name, request.query_params.getlist("name[]"))
    return Response(text, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})


@router.post("/models/{model}/reload", summary="Run the user's code as it is on disk now")
async def reload(model: str, request: Request) -> Response:
    """Takes effect between two requests, once the new code is loaded; until then, and if it fails, the old one runs."""
    _check(model, request)
    about = context(request)
    if about.reload is None:
        raise RouteNotFound
    try:
        await about.reload()
    except ConfigError as error:
        code = HTTPStatus.FAILED_DEPENDENCY
        raise CustomCodeError(code, {"code": int(code), "error": f"not reloaded: {error}"}) from None
    return pretty({"status": f"Model {model} reloaded"})


def _version(about: Context) -> dict[str, str]:
    """Of the model, where it has one."""
    return {"version": about.model_version} if about.model_version else {}


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


def _check(model: str, request: Request, version: str = "") -> None:
    if not context(request).serves(model, version):
        raise ModelNotFound(model)


def _named(url: str) -> str:
    """LMI's name for a model that is given without one."""
    return re.sub(r"\W", "_", url.rstrip("/").rpartition("/")[2])
