# SPDX-License-Identifier: Apache-2.0
"""Which handler is chosen, what is said about options that mean nothing to it, and formats that do not exist."""

import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from handlers.default import DefaultHandler
from handlers.embedding import EmbeddingHandler
from handlers.resolve import OUTPUT_FORMATS, built_in, resolve, without_effect
from handlers.rolling_batch import RollingBatchHandler
from handlers.user_code import UserCode
from serving import error_responses
from serving.config.host import Host
from serving.config.mode import Mode
from serving.config.options import LmiOptions
from serving.config.resolve import ResolvedConfig
from serving.config.resolve import resolve as resolve_config
from serving.errors import ConfigError
from serving.routers import tgi
from tests.fakes import FakeEngine

pytestmark = pytest.mark.pure


def options(**given: Any) -> LmiOptions:
    return LmiOptions.model_validate(given)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("async", DefaultHandler), ("rolling_batch", RollingBatchHandler), ("embedding", EmbeddingHandler)],
)
def test_handler(engine: FakeEngine, caplog: pytest.LogCaptureFixture, mode: Any, kind: type) -> None:
    caplog.set_level(logging.INFO)
    assert isinstance(resolve(engine, Mode(mode, "a reason"), options()), kind)
    assert [record.message for record in caplog.records] == [f"default handler: {mode}, because a reason"]


def configured(tmp_path: Path, name: str) -> ResolvedConfig:
    env = {"HF_MODEL_ID": "org/m", "OPTION_OUTPUT_FORMATTER": name}
    return resolve_config(env, [], Host(device_count=1), tmp_path, OUTPUT_FORMATS)


@pytest.mark.parametrize("name", ["json", "jsonlines", "sse", "json_chat", "jsonlines_chat", "sse_chat"])
def test_format(tmp_path: Path, name: str) -> None:
    assert configured(tmp_path, name).options.output_formatter == name


@pytest.mark.parametrize("name", ["lmi", "tgi", "3p", "JSON"])
def test_format_that_does_not_exist(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        configured(tmp_path, name)
    (problem,) = raised.value.problems
    assert problem.text.startswith(f"output_formatter='{name}': expected one of json, jsonlines, sse, json_chat")
    assert problem.origin == "OPTION_OUTPUT_FORMATTER"


def test_model_that_only_embeds(engine: FakeEngine) -> None:
    engine.tasks = ("embed", "token_embed")
    assert isinstance(resolve(engine, Mode("async", ""), options()), EmbeddingHandler)


def test_routes_of_tgi(engine: FakeEngine) -> None:
    """The paths that have a handler are those that have a route, and TGI's errors."""
    paths = {route.path for route in tgi.router.routes if isinstance(route, APIRoute)}
    assert paths == {*built_in(engine, Mode("async", ""), LmiOptions()).tgi, "/info"} == error_responses.TGI_PATHS


@pytest.mark.parametrize(
    ("mode", "given", "text"),
    [
        ("async", {"bedrock_compat": True}, "option.bedrock_compat has no effect"),
        ("async", {"output_formatter": "sse_chat"}, "output_formatter=sse_chat has no effect"),
        ("rolling_batch", {"lmi_default_greedy": True}, "option.lmi_default_greedy has no effect"),
        ("embedding", {"tgi_compat": True}, "output_formatter and tgi_compat have no effect"),
        ("async", {"normalize": False}, "option.normalize has no effect"),
        ("async", {"async_mode": False}, "option.async_mode=false has no effect"),
    ],
)
def test_option_of_another_mode(mode: Any, given: dict[str, Any], text: str) -> None:
    (warning,) = without_effect(Mode(mode, ""), options(**given))
    assert warning.startswith(text)


def test_every_option_where_it_belongs() -> None:
    assert (
        without_effect(Mode("async", ""), options(tgi_compat=True, output_formatter="sse", lmi_default_greedy=True))
        == []
    )
    assert without_effect(Mode("rolling_batch", ""), options(rolling_batch="vllm", async_mode="false")) == []
    handler = UserCode(Path("model.py"), has_handler=True)
    assert without_effect(Mode("async", ""), options(async_mode="false"), handler) == []
    (warning,) = without_effect(Mode("async", ""), options(invocations_api="openai"), handler)
    assert warning.startswith("option.invocations_api=openai has no effect")
    assert without_effect(Mode("rolling_batch", ""), options(bedrock_compat=True, tgi_compat=True)) == []
    assert without_effect(Mode("embedding", ""), options(normalize=False)) == []
