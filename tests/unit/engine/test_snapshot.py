# SPDX-License-Identifier: Apache-2.0
"""The committed snapshot of vLLM's arguments is what the installed parser says."""

import json

import pytest

from serving.config.vllm_arguments import REFUSED, arguments
from serving.engine.snapshot import PARSERS_TARGET, TARGET, parsers, snapshot

pytestmark = pytest.mark.vllm


def test_is_current() -> None:
    assert json.loads(TARGET.read_text("utf-8")) == snapshot(), "run `make snapshot`"
    assert json.loads(PARSERS_TARGET.read_text("utf-8")) == parsers(), "run `make snapshot`"


def test_refused_names_exist() -> None:
    assert set(REFUSED) <= set(arguments())
