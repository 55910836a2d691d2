# SPDX-License-Identifier: Apache-2.0
"""The committed snapshot of vLLM's arguments is what the installed parser says."""

import json

import pytest

from serving.config.vllm_arguments import REFUSED, arguments
from serving.engine.snapshot import TARGET, snapshot

pytestmark = pytest.mark.vllm


def test_is_current() -> None:
    assert json.loads(TARGET.read_text("utf-8")) == snapshot(), "run `make snapshot`"


def test_refused_names_exist() -> None:
    assert set(REFUSED) <= set(arguments())
