# SPDX-License-Identifier: Apache-2.0
"""Probes: who lives, who should get requests, and why not."""

import pytest

from serving.app import create_app
from serving.config.options import ServerSettings
from tests.conftest import client_of, context_of
from tests.fakes import FakeEngine

pytestmark = pytest.mark.pure


async def test_probes(engine: FakeEngine) -> None:
    about = context_of(engine)
    async with client_of(create_app(about, ServerSettings.model_validate({}))) as client:

        async def probe(path: str) -> tuple[int, dict[str, object]]:
            answer = await client.get(path)
            return answer.status_code, answer.json()

        assert await probe("/live") == await probe("/startup") == (200, {"status": "alive"})
        assert await probe("/ready") == (200, {"status": "ready"})
        engine.stalled_s = 61.2
        hangs = "requests wait, and nothing came from the engine for 61 s"
        assert await probe("/ready") == (503, {"status": "not ready", "reasons": [hangs]})
        assert (await probe("/live"))[0] == (await probe("/ping"))[0] == 200
        about.health.trip()
        tripped = "there were more errors than error_rate_* allows"
        assert await probe("/ready") == (503, {"status": "not ready", "reasons": [tripped, hangs]})
        engine.is_dead = True
        assert (await probe("/ready"))[1]["reasons"] == ["the engine, or the custom handler, is gone"]
        assert (await probe("/live"))[0] == 200
