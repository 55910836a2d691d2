# SPDX-License-Identifier: Apache-2.0
"""Which format answers: the payload's word, then the server's, then TGI's shapes, then the mode's own."""

from typing import Any

import pytest

from serving.formatters.registry import FORMATS, NAMES
from serving.schemas import lmi
from serving.schemas.output import Defaults, choose

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("name", "stream", "given", "expected"),
    [
        (None, False, {}, ("lmi", False)),
        (None, True, {}, ("lmi", True)),
        (None, True, {"mode": "rolling_batch"}, ("jsonlines", True)),
        (None, False, {"mode": "rolling_batch"}, ("json", False)),
        ("sse", False, {}, ("sse", True)),
        ("json", True, {}, ("json", False)),
        ("json", True, {"output_formatter": "sse"}, ("json", False)),
        ("unheard_of", True, {}, ("lmi", True)),
        ("unheard_of", True, {"output_formatter": "sse"}, ("lmi", True)),
        (7, True, {}, ("lmi", True)),
        ([], False, {}, ("lmi", False)),
        ("tgi", False, {}, ("lmi", False)),
        (None, False, {"output_formatter": "jsonlines"}, ("jsonlines", True)),
        (None, False, {"tgi_compat": True}, ("json", False)),
        (None, True, {"tgi_compat": True, "mode": "rolling_batch"}, ("sse", True)),
        ("jsonlines", True, {"tgi_compat": True}, ("jsonlines", True)),
    ],
)
def test_choice(name: Any, stream: bool, given: dict[str, Any], expected: tuple[str, bool]) -> None:
    assert choose(name, stream, Defaults(formats=NAMES, **given)) == expected
    assert expected[0] in FORMATS


@pytest.mark.parametrize(
    ("given", "temperature"),
    [({}, 0.0), ({"do_sample": True}, None), ({"temperature": 0.7}, 0.7), ({"top_p": 0.5}, 0.0)],
)
def test_greedy_by_default(given: dict[str, Any], temperature: float | None) -> None:
    """`option.lmi_default_greedy` holds where a payload says nothing about sampling."""
    request = lmi.parse({"inputs": "a", "parameters": given}, Defaults(greedy=True))
    assert request.generations[0].fields.get("temperature") == temperature


@pytest.mark.parametrize(("given", "details"), [({}, True), ({"details": False}, False), ({"details": None}, True)])
def test_details_of_tgi(given: dict[str, Any], details: bool) -> None:
    request = lmi.parse({"inputs": "a", "parameters": given}, Defaults(tgi_compat=True, formats=NAMES))
    assert (request.details, request.tgi_keys, request.output_format) == (details, True, "json")
