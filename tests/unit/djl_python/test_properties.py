# SPDX-License-Identifier: Apache-2.0
"""The properties of a request: keys in any case, options behind them that only lookups see."""

import copy
import json
import pickle

import pytest

from djl_python.inputs import Input, Properties, header_case

pytestmark = pytest.mark.pure


@pytest.fixture
def properties() -> Properties:
    return Properties({"Content-Type": "text/plain", "x": "1"}, options={"model_id": "m0", "hf_token": "s"})


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("content-type", "Content-Type"),
        ("x-amzn-sagemaker-adapter-identifier", "X-Amzn-SageMaker-Adapter-Identifier"),
        ("x-amzn-requestid", "X-Amzn-RequestId"),
        ("X-REQUEST-ID", "X-Request-Id"),
        ("etag", "ETag"),
        ("te", "TE"),
        ("my-own", "My-Own"),
    ],
)
def test_header_case(name: str, shown: str) -> None:
    assert header_case(name) == shown


def test_any_case_finds_a_key(properties: Properties) -> None:
    assert properties["content-TYPE"] == properties.get("CONTENT-type") == "text/plain"
    assert "content-type" in properties
    with pytest.raises(KeyError, match="absent"):
        properties["absent"]
    assert properties.get("absent", 5) == 5


def test_a_key_keeps_its_first_spelling(properties: Properties) -> None:
    properties["content-type"] = "a/b"
    properties.update({"X": "2"}, y="3")
    assert list(properties.items()) == [("Content-Type", "a/b"), ("x", "2"), ("y", "3")]
    properties |= {"Y": "4"}
    assert (properties | {"Z": 1}) == {"Content-Type": "a/b", "x": "2", "y": "4", "Z": 1}
    del properties["CONTENT-TYPE"]
    assert (properties.pop("X"), properties.pop("X", None), properties.popitem()) == ("2", None, ("y", "4"))
    properties["CONTENT-type"] = "again"
    assert list(properties) == ["CONTENT-type"]
    with pytest.raises(KeyError):
        properties.pop("x")


def test_options_answer_lookups_only(properties: Properties) -> None:
    assert properties["model_id"] == properties.get("MODEL_ID") == properties.setdefault("model_id", "x") == "m0"
    assert "model_id" in properties
    own = {"Content-Type": "text/plain", "x": "1"}
    assert list(properties) == list(own)
    assert dict(properties) == properties == own
    assert {**properties} == own
    assert json.loads(json.dumps(properties)) == own
    assert repr(properties) == repr(own)
    assert len(properties) == 2
    properties.clear()
    assert properties == {}
    assert "x" not in properties
    assert properties["model_id"] == "m0"


def test_a_request_wins_over_an_option(properties: Properties) -> None:
    properties["Model_ID"] = "own"
    assert properties["model_id"] == "own"


@pytest.mark.parametrize(
    ("option", "seen"),
    [
        ("tokenizer", True),
        ("max_new_tokens", True),
        ("tensor_parallel_degree", True),
        ("keyboard", True),
        ("hf_token", False),
        ("API_KEY", False),
        ("client-secret", False),
        ("password", False),
        ("batch_size", False),
        ("batch_000_x", False),
        ("handler", False),
        ("Content-Type", False),
        ("accept", False),
        ("input_formatter", False),
        ("output_formatter", False),
    ],
)
def test_what_is_never_looked_up_among_options(option: str, seen: bool) -> None:
    properties = Properties(options={option: "v"})
    assert (option in properties) is seen
    assert properties.get(option) == ("v" if seen else None)


@pytest.mark.parametrize("copied", [lambda p: pickle.loads(pickle.dumps(p)), copy.deepcopy, copy.copy, Properties.copy])
def test_copies_keep_case_and_options(properties: Properties, copied: object) -> None:
    other = copied(properties)  # type: ignore[operator]
    assert type(other) is Properties
    assert other == properties
    assert (other["CONTENT-TYPE"], other["model_id"], other.get("hf_token")) == ("text/plain", "m0", None)
    other["new"] = 1
    assert "new" not in properties


def test_a_plain_dict_may_take_their_place() -> None:
    inputs = Input()
    inputs.properties = {"Content-Type": "a", "content-type": "b"}
    assert inputs.get_property("CONTENT-TYPE") == "a"
    assert inputs.get_property("absent") is None
    assert inputs.get_property("absent", "d") == "d"
