# SPDX-License-Identifier: Apache-2.0
"""Which handler is chosen, what is said about options that mean nothing to it, and formats that do not exist."""

import logging
from typing import Any

import pytest

from handlers.default import DefaultHandler
from handlers.embedding import EmbeddingHandler
from handlers.resolve import check, resolve
from handlers.rolling_batch import RollingBatchHandler
from serving.config.mode import Mode
from serving.config.options import LmiOptions
from serving.errors import ConfigError
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
    assert [record.message for record in caplog.records] == [f"handler: {mode}, because a reason"]


@pytest.mark.parametrize("name", ["json", "jsonlines", "sse", "json_chat", "jsonlines_chat", "sse_chat"])
def test_format(name: str) -> None:
    assert check(Mode("rolling_batch", ""), options(output_formatter=name)) == []


@pytest.mark.parametrize("name", ["none", "lmi", "tgi", "3p", "JSON", ""])
def test_format_that_does_not_exist(name: str) -> None:
    with pytest.raises(ConfigError, match=f"output_formatter='{name}': expected one of json, jsonlines, sse, "):
        check(Mode("async", ""), options(output_formatter=name))


@pytest.mark.parametrize(
    ("mode", "given", "text"),
    [
        ("async", {"bedrock_compat": True}, "option.bedrock_compat has no effect"),
        ("async", {"output_formatter": "sse_chat"}, "output_formatter=sse_chat has no effect"),
        ("rolling_batch", {"lmi_default_greedy": True}, "option.lmi_default_greedy has no effect"),
        ("embedding", {"tgi_compat": True}, "output_formatter and tgi_compat have no effect"),
        ("async", {"normalize": False}, "option.normalize has no effect"),
    ],
)
def test_option_of_another_mode(mode: Any, given: dict[str, Any], text: str) -> None:
    (warning,) = check(Mode(mode, ""), options(**given))
    assert warning.startswith(text)


def test_every_option_where_it_belongs() -> None:
    assert check(Mode("async", ""), options(tgi_compat=True, output_formatter="sse", lmi_default_greedy=True)) == []
    assert check(Mode("rolling_batch", ""), options(bedrock_compat=True, tgi_compat=True)) == []
    assert check(Mode("embedding", ""), options(normalize=False)) == []
