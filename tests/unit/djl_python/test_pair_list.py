# SPDX-License-Identifier: Apache-2.0
"""PairList: what each form of `add` does, and what LMI's own raised on."""

import pytest

from djl_python import PairList

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("arguments", "pairs"),
    [
        ({"key": "k", "value": "v"}, [("a", 1), ("k", "v")]),
        ({"key": "k", "value": "v", "index": 0}, [("k", "v"), ("a", 1)]),
        ({"pair": ("k", None)}, [("a", 1), ("k", None)]),
        ({"key": "x", "value": "y", "pair": ("k", "v")}, [("a", 1), ("k", "v")]),
        ({"key": "k", "index": 0, "pair": ("p", 2)}, [("a", 1), ("p", 2)]),
        ({"key": "k", "value": b""}, [("a", 1), ("k", b"")]),
        ({"value": "v"}, [("a", 1), (None, "v")]),
        ({"key": "k"}, [("a", 1)]),
    ],
)
def test_add(arguments: dict, pairs: list) -> None:
    content = PairList(["a"], [1])
    assert content.add(**arguments) is None
    assert list(zip(content.keys, content.values, strict=True)) == pairs


def test_lists_are_taken_over_without_a_copy() -> None:
    keys, values = ["a"], [1]
    content = PairList(keys, values)
    content.add("b", 2)
    assert (keys, values) == (["a", "b"], [1, 2])
    assert content.get_keys() is keys
    assert content.get_values() is values


def test_lists_of_different_lengths() -> None:
    with pytest.raises(ValueError, match=r"^key value size mismatch\.$"):
        PairList(["a", "b"], [1])


def test_pairs_and_maps() -> None:
    content = PairList(["a"], [1], [("b", 2)], {"c": 3})
    assert (content.keys, content.values) == (["a", "b", "c"], [1, 2, 3])


def test_add_all() -> None:
    content = PairList(["a"], [1])
    content.add_all(PairList(["b", None], [2, 3]))
    content.add_all(None)
    assert (content.keys, content.values) == (["a", "b", None], [1, 2, 3])


def test_lookups() -> None:
    content = PairList(["a", "a", None], [1, 2, 3])
    assert (content.get("a"), content.get(None), content.get("b")) == (1, 3, None)
    assert (content.key_at(1), content.value_at(1), content.size(), content.is_empty()) == ("a", 2, 3, False)
    assert PairList().is_empty()
    with pytest.raises(IndexError):
        content.value_at(3)
