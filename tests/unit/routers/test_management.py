# SPDX-License-Identifier: Apache-2.0
"""LMI's metrics route, which an option opens."""

from dataclasses import replace

import pytest

from serving.app import create_app
from serving.config.options import ServerSettings
from tests.conftest import client_of, context_of
from tests.fakes import FakeEngine

pytestmark = pytest.mark.pure


async def test_metrics_under_lmis_names(engine: FakeEngine) -> None:
    settings = ServerSettings(prometheus=True)
    async with client_of(create_app(replace(context_of(engine), settings=settings), settings)) as client:
        await client.post("/invocations", json={"inputs": "hi"})
        answer = await client.get("/server/metrics?name[]=Response_2XX&name[]=RequestLatency")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = {line.partition("{")[0] for line in answer.text.splitlines() if not line.startswith("#")}
    assert names == {
        "Response_2XX_total",
        *(f"RequestLatency_{part}" for part in ("bucket", "count", "sum")),
    }
