# SPDX-License-Identifier: Apache-2.0
"""Body bytes to a payload, by content type."""

import pytest

from serving.errors import PayloadError
from serving.schemas.content import decode, of_parts

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "Application/JSON; charset=utf-8",
        "application/vnd.api+json",
        "application/x-www-form-urlencoded",
    ],
)
def test_json_object(content_type: str | None) -> None:
    assert decode(content_type, b' {"inputs": "caf\xc3\xa9"}') == {"inputs": "café"}


@pytest.mark.parametrize(
    ("content_type", "body", "inputs"),
    [
        ("application/x-www-form-urlencoded", b"inputs=a+b%21&data=c", "c"),
        ("application/x-www-form-urlencoded", b"first=a+b%21&second=c", "a b!"),
        ("application/x-www-form-urlencoded", b"no form", "no form"),
        ("application/x-www-form-urlencoded", b"model_name=m&b=a", "a"),
        ("application/octet-stream", "caf\u00e9".encode(), "caf\u00e9"),
        ("text/csv", b'inputs,x\r\na,1\r\n"b, c",2\r\n', ["a", "b, c"]),
    ],
)
def test_prompts_without_json(content_type: str, body: bytes, inputs: object) -> None:
    assert decode(content_type, body) == {"inputs": inputs}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_json_in_other_encodings(encoding: str) -> None:
    assert decode("application/json", '{"inputs": "é"}'.encode(encoding)) == {"inputs": "é"}


@pytest.mark.parametrize(
    ("parts", "prompt"),
    [
        ([("a", b"first"), ("b", b"second")], "first"),
        ([("a", b"no"), ("data", b"yes"), ("data", b"later")], "yes"),
        ([("model_name", b"m"), ("a", b"")], ""),
    ],
)
def test_prompt_of_a_form(parts: list[tuple[str, bytes]], prompt: str) -> None:
    assert of_parts(parts) == {"inputs": prompt}


@pytest.mark.parametrize(
    ("parts", "message"),
    [([("model_name", b"m")], "the form has no part with a prompt"), ([("a", b"\xff")], "the body is not UTF-8 text")],
)
def test_form_without_a_prompt(parts: list[tuple[str, bytes]], message: str) -> None:
    with pytest.raises(PayloadError, match=f"^Input parsing failed: {message}"):
        of_parts(parts)


def test_text_is_a_list_of_one_prompt() -> None:
    assert decode("text/plain; charset=utf-8", "héllo\n".encode()) == {"inputs": ["héllo\n"]}


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("application/json", b"{oops", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("application/json", b"", "Expecting value: line 1 column 1 (char 0)"),
        ("application/json", b'["a"]', "expected a JSON object, got list"),
        ("application/json", b"null", "expected a JSON object, got NoneType"),
        ("application/json", b'"x"', "expected a JSON object, got str"),
        ("application/json", b'{"a": "\xff"}',
         "'utf-8' codec can't decode byte 0xff in position 7: invalid start byte"),
        ("text/plain", b"\xff", "the body is not UTF-8 text: 'utf-8' codec can't decode byte 0xff in position 0: "
         "invalid start byte"),
        ("image/png", b"{}", "content type 'image/png' is not supported; send application/json"),
        ("multipart/form-data; boundary=x", b"--x--",
         "content type 'multipart/form-data' is not supported; send application/json"),
        ("text/csv", b"x,y\n1,2", "a CSV needs a header with one of question, context, inputs, and rows"),
        ("text/csv", b"inputs\n", "a CSV needs a header with one of question, context, inputs, and rows"),
    ],
)  # fmt: skip
def test_body_that_cannot_be_read(content_type: str, body: bytes, message: str) -> None:
    with pytest.raises(PayloadError) as raised:
        decode(content_type, body)
    assert str(raised.value) == f"Input parsing failed: {message}"


def test_deeply_nested_body_is_the_callers_fault() -> None:
    with pytest.raises(PayloadError, match=r"^Input parsing failed: maximum recursion depth exceeded"):
        decode("application/json", b'{"inputs": ' + b"[" * 100_000)
