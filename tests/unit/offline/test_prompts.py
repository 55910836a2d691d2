# SPDX-License-Identifier: Apache-2.0
"""A prompt or a batch of them."""

from typing import Any

import pytest

from serving.errors import PayloadError
from serving.offline.prompts import prompts_of

pytestmark = pytest.mark.pure
CHAT = [{"role": "user", "content": "Hi"}]
PICTURE = {"prompt": "a", "multi_modal_data": {"image": None}}


@pytest.mark.parametrize(
    ("given", "items", "is_batch", "are_chats"),
    [
        ("a", ["a"], False, False),
        ([1, 2], [[1, 2]], False, False),
        (CHAT, [CHAT], False, True),
        (PICTURE, [PICTURE], False, False),
        (["a", "b"], ["a", "b"], True, False),
        (["a"], ["a"], True, False),
        ([[1, 2], "a", PICTURE], [[1, 2], "a", PICTURE], True, False),
        ([CHAT, CHAT], [CHAT, CHAT], True, True),
        ([], [], True, False),
    ],
    ids=repr,
)
def test_prompts(given: Any, items: list[Any], is_batch: bool, are_chats: bool) -> None:
    prompts = prompts_of(given)
    assert (list(prompts.items), prompts.is_batch, prompts.are_chats) == (items, is_batch, are_chats)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (3, "not int"),
        (None, "not NoneType"),
        (b"a", "not bytes"),
        (["a", 3], "prompt 1"),
        ([["a"]], "prompt 0"),
        ([True], "prompt 0"),
        ([CHAT, "a"], "two calls"),
    ],
    ids=repr,
)
def test_refused(given: Any, text: str) -> None:
    with pytest.raises(PayloadError, match=text):
        prompts_of(given)
