# SPDX-License-Identifier: Apache-2.0
"""vLLM's two routes for adapters, what a strict start refuses, and what is counted."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serving.errors import ConfigError
from tests.custom import CustomServer, serving

pytestmark = pytest.mark.pure
FILES = {f"{name}/adapter_config.json": "{}" for name in ("adapters/a1", "third", "fourth")}
LORA = {"option.enable_lora": "true"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[CustomServer]:
    async with serving(tmp_path, FILES, LORA) as started:
        yield started


async def post(server: CustomServer, path: str, **body: Any) -> tuple[int, str]:
    answer = await server.client.post(path, json=body)
    error = answer.json()["error"] if answer.status_code != 200 else {}
    assert not error or error["code"] == answer.status_code
    return answer.status_code, error.get("message", answer.text)


async def names(server: CustomServer) -> dict[str, str]:
    listed = (await server.client.get("/adapters")).json()["adapters"]
    return {one["name"]: Path(one["src"]).name for one in listed}


async def test_routes_of_vllm(server: CustomServer) -> None:
    """They and LMI's see the same adapters."""
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    told = "Success: LoRA adapter 'a3' added successfully."
    assert await post(server, load, lora_name="a3", lora_path="third") == (200, told)
    assert await names(server) == {"a1": "a1", "a3": "third"}
    assert await post(server, load, lora_name="a3", lora_path="fourth") == (
        400,
        "The lora adapter 'a3' has already been loaded. If you want to load the adapter in place, set 'load_inplace' "
        "to True.",
    )
    assert await post(server, load, lora_name="a3", lora_path="fourth", load_inplace=True) == (200, told)
    assert await names(server) == {"a1": "a1", "a3": "fourth"}
    told = "Success: LoRA adapter 'a1' removed successfully."
    assert await post(server, unload, lora_name="a1") == (200, told)
    assert await post(server, unload, lora_name="a1") == (404, "The lora adapter a1 was not found")
    assert await names(server) == {"a3": "fourth"}


@pytest.mark.parametrize("src", ["/etc", "s3://bucket/a", "nowhere"])
async def test_sources_of_vllms_route(server: CustomServer, src: str) -> None:
    """What comes over HTTP lies where it may, whatever the route."""
    status, text = await post(server, "/v1/load_lora_adapter", lora_name="x", lora_path=src)
    assert status == 400
    assert "not a valid path" in text or "not currently supported" in text


async def test_replacement_that_fails(tmp_path: Path) -> None:
    """The one before goes on, its code included."""
    formatter = (
        "from djl_python.input_parser import input_formatter\n@input_formatter\ndef f(p): return {'inputs': 'A'}"
    )
    files = {**FILES, "third/model.py": formatter, "fourth/broken": "rank 64"}
    async with serving(tmp_path, files, LORA) as server:
        assert (await post(server, "/v1/load_lora_adapter", lora_name="a3", lora_path="third"))[0] == 200
        bad = {"lora_name": "a3", "lora_path": "fourth", "load_inplace": True}
        assert await post(server, "/v1/load_lora_adapter", **bad) == (400, "rank 64")
        assert await names(server) == {"a1": "a1", "a3": "third"}
        answer = await server.client.post("/invocations", json={"q": 1, "adapters": "a3"})
        assert answer.json()["generated_text"] == "D:A"


async def test_off(tmp_path: Path) -> None:
    async with serving(tmp_path, FILES, {}) as server:
        refused = (400, "LoRA is not enabled.")
        assert await post(server, "/v1/load_lora_adapter", lora_name="x", lora_path="third") == refused


async def test_strict_start(tmp_path: Path) -> None:
    """Every broken one is told."""
    files = {
        **FILES,
        "adapters/a1/broken": "rank 64",
        "adapters/a0/adapter_config.json": "",
        "adapters/a0/broken": "no",
    }
    with pytest.raises(ConfigError) as raised:
        async with serving(tmp_path, files, {**LORA, "option.strict": "true"}):
            pass
    assert [problem.text for problem in raised.value.problems] == [
        "the adapter a0 does not load: no", "the adapter a1 does not load: rank 64"
    ]  # fmt: skip
