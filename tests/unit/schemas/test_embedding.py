# SPDX-License-Identifier: Apache-2.0
"""Payloads for embedding models: one vector per text, and what cannot be embedded."""

from typing import Any

import pytest

from serving.errors import PayloadError
from serving.schemas.embedding import parse
from serving.schemas.generation import EmbeddingRequest

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("payload", "request_"),
    [
        ({"inputs": "a"}, EmbeddingRequest(["a"])),
        ({"inputs": ["a", "b"]}, EmbeddingRequest(["a", "b"])),
        ({"inputs": [5, 6]}, EmbeddingRequest([[5, 6]])),
        ({"inputs": "a", "model": "m"}, EmbeddingRequest(["a"], model="m")),
        ({"inputs": "a", "parameters": {"normalize": False, "truncate": -1, "dimensions": 8}},
         EmbeddingRequest(["a"], normalize=False, truncate=-1, dimensions=8)),
        ({"inputs": "a", "parameters": {"normalize": None, "unheard_of": 1}}, EmbeddingRequest(["a"])),
    ],
)  # fmt: skip
def test_payload(payload: dict[str, Any], request_: EmbeddingRequest) -> None:
    assert parse(payload) == request_


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({}, "inputs must not be empty"),
        ({"inputs": ""}, "inputs must not be empty"),
        ({"inputs": []}, "inputs must not be empty"),
        ({"inputs": 5}, "'inputs' must be a string or list of strings, got int"),
        ({"inputs": ["a", 5]}, "'inputs' must be a string or list of strings, got a mixed list"),
        ({"inputs": [True]}, "'inputs' must be a string or list of strings, got a mixed list"),
        ({"inputs": "\ud800"}, "inputs is not valid Unicode"),
        ({"messages": []}, "this model embeds texts and does not generate; send inputs, not messages"),
        ({"inputs": "a", "parameters": {"truncate": "x"}}, "truncate must be a whole number, got 'x'"),
        ({"inputs": "a", "parameters": {"normalize": 3}}, "normalize must be true or false, got 3"),
    ],
)
def test_refusal(payload: dict[str, Any], text: str) -> None:
    with pytest.raises(PayloadError) as raised:
        parse(payload)
    assert str(raised.value).startswith(f"Input parsing failed: {text}")
