# SPDX-License-Identifier: Apache-2.0
"""The version that a model was given with its name: where it may be said, and where it is shown."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from serving import demo
from serving.app import create_app
from serving.config.host import Host
from serving.config.options import ServerSettings
from serving.config.resolve import resolve
from tests.conftest import client_of, context_of
from tests.fakes import FakeEngine

pytestmark = pytest.mark.pure
HI = {"inputs": "hi"}
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    """Of a server whose model is `test`, version `v1`."""
    context = replace(context_of(engine), model_version="v1")
    async with client_of(create_app(context, ServerSettings())) as client:
        yield client


@pytest.mark.parametrize(("version", "status"), [("v1", 200), ("v2", 404)])
async def test_where_it_may_be_said(client: httpx.AsyncClient, version: str, status: int) -> None:
    answers = [
        await client.post(f"/predictions/test/{version}", json=HI),
        await client.post(f"/predictions/test?model_version={version}", json=HI),
        await client.post(f"/invocations?model_name=test&model_version={version}", json=HI),
        await client.post("/invocations", json=HI, headers={"model_version": version}),
        await client.post("/models/test/invoke", json=HI, headers={ATTRIBUTES: f"model_version={version}"}),
        await client.options(f"/predictions/test/{version}"),
        await client.get(f"/v2/models/test/versions/{version}/ready"),
        await client.get(f"/v2/models/test/version/{version}"),
    ]
    assert [answer.status_code for answer in answers] == [status] * len(answers)
    if status == 404:
        assert answers[0].json()["message"] == "Model or workflow not found: test, version v2"


@pytest.mark.parametrize(("version", "status"), [("v1", 200), ("v2", 404)])
async def test_management(client: httpx.AsyncClient, version: str, status: int) -> None:
    answers = [
        await client.get(f"/models/test/{version}"),
        await client.get(f"/workflows/test/{version}"),
        await client.put(f"/models/test/{version}?min_worker=1&max_worker=1"),
    ]
    assert [answer.status_code for answer in answers] == [status] * 3
    assert (await client.delete(f"/models/test/{version}")).status_code == (501 if status == 200 else 404)
    assert (await client.get("/models/test/adapters")).json()["message"] == "LoRA is not enabled."
    assert (await client.get("/models/test/invoke")).status_code == 405


@pytest.mark.parametrize("body", ['{"inputs": "http://x/?a=1&model_name=other&b=2"}', "data=see+model_name%3Dx"])
async def test_name_of_a_model_in_a_prompt(client: httpx.AsyncClient, body: str) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert (await client.post("/invocations", content=body, headers=headers)).status_code == 200
    long = body.replace("see", "see+" * 300_000).replace("http", "h" * 1_100_000)
    assert (await client.post("/invocations", content=long, headers=headers)).status_code in (200, 413)


async def test_attribute_in_any_case(client: httpx.AsyncClient) -> None:
    for name in ("model_name", "Model_Name"):
        answer = await client.post("/invocations", json=HI, headers={ATTRIBUTES: f"{name}=nope"})
        assert answer.status_code == 404


async def test_stronger_places(client: httpx.AsyncClient) -> None:
    """The path beats the query, the query the header."""
    answer = await client.post("/predictions/test/v1?model_version=v2", json=HI, headers={"model_version": "v3"})
    assert answer.status_code == 200
    answer = await client.post("/predictions/test?model_version=v1", json=HI, headers={"model_version": "v3"})
    assert answer.status_code == 200
    assert (await client.get("/predictions/test/v2")).status_code == 404
    assert (await client.get("/predictions/test/v1")).status_code == 405


async def test_where_it_is_shown(client: httpx.AsyncClient) -> None:
    (model,) = (await client.get("/models")).json()["models"]
    (workflow,) = (await client.get("/workflows")).json()["workflows"]
    (described,) = (await client.get("/models/test")).json()
    assert [one["version"] for one in (model, workflow, described)] == ["v1"] * 3
    assert (await client.get("/v2/models/test")).json()["versions"] == ["v1"]


@pytest.mark.parametrize(
    ("given", "name", "version"),
    [
        ("[a:v1]=org/m", "a", "v1"),
        ("[a:1.0:Python:*]=org/m", "a", "1.0"),
        ("[a::Python]=org/m", "a", ""),
        ("[a]=org/m", "a", ""),
        ("a=org/m", "a", ""),
    ],
)
def test_where_it_comes_from(tmp_path: Path, given: str, name: str, version: str) -> None:
    config = resolve({}, ["-m", given], Host(device_count=1, root=tmp_path), demo.MODEL_DIR)
    assert (config.model_name, config.model_version, config.options.model_id) == (name, version, "org/m")
