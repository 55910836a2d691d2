# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for requests that are nearly right: what clients get wrong, and what no client would send.

A request begins as one of `KINDS`; then fields are added, replaced, dropped, and the bytes may be spoilt.
"""

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest

from serving import demo
from tests.long.load import QUESTIONS, Kind

PATHS = ["/invocations", "/predictions/demo", "/", "/generate", "/generate_stream"]
_SCHEMAS = ["inputs", "prompt", "messages"]
_OWN_FIELDS = [
    *("max_new_tokens", "do_sample", "details", "return_full_text", "decoder_input_details", "top_n_tokens", "best_of"),
    *("num_beams", "truncate", "stop_sequences", "ignore_eos_token", "early_stopping", "typical_p", "watermark"),
    *("grammar", "adapter_id", "output_formatter", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
]

FIELDS = sorted({*_OWN_FIELDS, *CompletionRequest.model_fields, *ChatCompletionRequest.model_fields})
_TOP_FIELDS = ["inputs", "parameters", "prompt", "messages", "input", "stream", "adapters", "adapter", "model"]
_TOP_FIELDS += ["requestType", "sessionId", "tools", "tool_choice", "response_format", "body", "\ud800", ""]
_CONTENT_TYPES = [
    *("application/json", "application/json; charset=utf-16", "application/jsonlines", "JSON", "text/plain"),
    *("text/csv", "application/x-www-form-urlencoded", "application/octet-stream", "application/x-npy", ";", "*/*"),
    *("multipart/form-data", "multipart/form-data; boundary=x", "application/cloudevents+json", "\xff"),
]
_HEADERS = [
    "x-amzn-sagemaker-adapter-identifier",
    "x-amzn-sagemaker-session-id",
    "x-amzn-sagemaker-custom-attributes",
    "x-request-id",
    "accept",
    "content-encoding",
    "traceparent",
]

_TEXTS = st.sampled_from([*QUESTIONS, *demo.adapter_names(), "", " ", "\0", "\ud83d", "\U0001f642", "demo", "a" * 9000])
_NUMBERS = st.sampled_from([-(10**30), -(2**63), -2, -1, 0, 1, 2, 3, 17, 2**31, 2**32, 2**63, 2**64, 10**30, 10**400])
_FLOATS = st.sampled_from([-1.0, 0.0, 1e-320, 0.5, 1.0, 1.5, 2.0, 1e308]) | st.floats()
_SCALARS = st.none() | st.booleans() | _NUMBERS | st.integers() | _FLOATS | _TEXTS | st.text(max_size=20)
_KEYS = st.sampled_from([*FIELDS, *_TOP_FIELDS, "type", "role", "content", "text", "function", "name", "json", "value"])
JUNK = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4), max_leaves=8
)
_SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}, "required": ["a"]}
_PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([0, 0.0, 0.7, 1, 2.0, "0.5"]),
    "top_p": st.sampled_from([0.1, 1, 1.0, "0.9"]),
    "top_k": st.sampled_from([-1, 0, 1, 50, 10**6]),
    "seed": st.sampled_from([0, 1, -1, 2**63 - 1, 2**64, "7"]),
    "stop": st.sampled_from([".", [], [" model", ""], ["a"] * 20]),
    "logit_bias": st.dictionaries(st.sampled_from(["0", "1", "2000", "x", "-1"]), st.floats(-101, 101), max_size=3),
    "guided_json": st.sampled_from([_SCHEMA, json.dumps(_SCHEMA), {"type": "nonsense"}, {"$ref": "#"}]),
    "guided_regex": st.sampled_from(["[ab]{3}", "(", "a*", "(?<=a)b", "[^\\x00-\\x7f]{2}"]),
    "guided_choice": st.sampled_from([["yes", "no"], [], [""], "yes"]),
    "guided_grammar": st.sampled_from(['root ::= "a"', "root ::= root", "nonsense"]),
    "response_format": st.sampled_from(
        [
            {"type": "json_object"},
            {"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA}},
            {"type": "json_schema"},
            {"type": "text"},
        ]
    ),
    "grammar": st.sampled_from([{"type": "json", "value": _SCHEMA}, {"type": "regex", "value": "["}, {"type": "json"}]),
    "structured_outputs": st.sampled_from([{"json": _SCHEMA}, {"regex": "("}, {"regex": "a", "json": {}}, {}]),
    "output_formatter": st.sampled_from(["json", "jsonlines", "sse", "nonsense"]),
    "tools": st.sampled_from([[{"type": "function", "function": {"name": "f", "parameters": _SCHEMA}}], [{}]]),
    "tool_choice": st.sampled_from(["auto", "none", "required", {"type": "function", "function": {"name": "f"}}]),
    "stream_options": st.sampled_from([{"include_usage": True}, {"continuous_usage_stats": True}, {}]),
    "adapters": st.sampled_from([*demo.adapter_names(), ["pirate", None], ["nobody"]]),
    "requestType": st.sampled_from(["NEW_SESSION", "CLOSE", "nonsense"]),
}
_COUNTS = st.sampled_from([0, 1, 2, 3, 5, 16, 100, 2047, 2048, 2049, "3", 2.0, True])
_PROMPTS = st.sampled_from(
    [
        *QUESTIONS,
        [QUESTIONS[0], QUESTIONS[1]],
        [1, 2, 3],
        [[1, 2], [3]],
        [10**9],
        [-1],
        ["a"] * 40,
        [""],
        "many words " * 3000,
    ]
)
_MESSAGES = st.sampled_from(
    [
        [{"role": "system", "content": "x"}, {"role": "user", "content": QUESTIONS[0]}],
        [{"role": "user", "content": [{"type": "text", "text": QUESTIONS[0]}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}],
        [{"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}]}],
        [{"role": "tool", "content": None}],
        [{"content": "x"}],
        [],
    ]
)


@dataclass(frozen=True)
class Sent:
    """One request as it goes over the wire."""

    path: str
    headers: list[tuple[str, str]]
    content: bytes


@st.composite
def _field(draw: st.DrawFn, names: list[str]) -> tuple[str, Any]:
    """A field by name, its value fitting, a count, or anything."""
    name = draw(st.sampled_from(names))
    fitting = {"prompt": _PROMPTS, "inputs": _PROMPTS, "messages": _MESSAGES, **_PLAUSIBLE}.get(name, _COUNTS)
    return name, draw(st.one_of(fitting, fitting, _COUNTS, JUNK))


@st.composite
def _payload(draw: st.DrawFn, schemas: list[str]) -> Any:
    """Nearly what one of the schemas wants."""
    kind = Kind("", draw(st.sampled_from(schemas)), stream=draw(st.booleans()))
    payload = kind.body(draw(st.sampled_from(QUESTIONS)), draw(st.sampled_from([1, 5, 60])))
    inner = payload.get("parameters", payload)
    inner.update(draw(st.lists(_field(FIELDS), max_size=3)))
    payload.update(draw(st.lists(_field(_TOP_FIELDS), max_size=1)))
    if draw(st.integers(0, 9)) == 0:
        del payload[draw(st.sampled_from(sorted(payload)))]
    return payload


@st.composite
def _content(draw: st.DrawFn, schemas: list[str]) -> bytes:
    """A payload as bytes, sometimes spoilt; sometimes any bytes."""
    match draw(st.integers(0, 19)):
        case 0:
            return draw(st.binary(max_size=200))
        case 1:
            return draw(
                st.sampled_from([b"[" * 100_000, b'{"a":' * 5000, b"\xff\xfe{\0}\0", b"", b"null", b"NaN", b"0"])
            )
        case 2:
            return json.dumps(draw(JUNK)).encode()
        case 3:
            return json.dumps(draw(_payload(schemas)), ensure_ascii=False).encode("utf-8", "surrogatepass")
        case 4:
            encoding = draw(st.sampled_from(["utf-16", "utf-8-sig", "utf-32"]))
            return json.dumps(draw(_payload(schemas))).encode(encoding)
        case 5:
            data = json.dumps(draw(_payload(schemas))).encode()
            at = draw(st.integers(0, len(data)))
            return data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 3)) :]
        case _:
            return json.dumps(draw(_payload(schemas))).encode()


@st.composite
def sendings(draw: st.DrawFn) -> Sent:
    """A request to one of LMI's or TGI's routes."""
    headers = []
    if draw(st.integers(0, 9)) > 0:
        is_usual = draw(st.integers(0, 9)) > 1
        headers.append(("content-type", "application/json" if is_usual else draw(st.sampled_from(_CONTENT_TYPES))))
    if draw(st.integers(0, 9)) == 0:
        text = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=20)
        words = st.sampled_from(
            ["pirate", "demo", "handler=x", "model_name=demo", "a=b;;=", "gzip", "text/event-stream"]
        )
        headers.append((draw(st.sampled_from(_HEADERS)), draw(words | text)))
    path = draw(st.sampled_from(PATHS))
    # TGI's routes know one schema.
    schemas = _SCHEMAS if path.startswith(("/i", "/p")) or draw(st.integers(0, 9)) == 0 else _SCHEMAS[:1]
    return Sent(path, headers, draw(_content(schemas)))
