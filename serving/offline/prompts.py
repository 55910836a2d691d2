# SPDX-License-Identifier: Apache-2.0
"""One prompt or a batch of them, from what users hand over."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.errors import PayloadError


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of one call.

    Attributes:
        items: each one a text, a list of token ids, a conversation or one of vLLM's own prompts (a mapping).
        is_batch: they were given as a list.
        are_chats: they are conversations, which the model's chat template renders.
    """

    items: Sequence[Any]
    is_batch: bool
    are_chats: bool


def prompts_of(given: Any) -> Prompts:
    """Tells a prompt from a batch.

    Args:
        given: a text; a list of token ids; a conversation, which is a list of messages with `role` and `content`;
            one of vLLM's prompts, such as `{"prompt": ..., "multi_modal_data": ...}`; or a list of such. What was read
            already stays as it is.

    Raises:
        PayloadError: it is none of these, or a batch of conversations and other prompts.
    """
    if isinstance(given, Prompts):
        return given
    if (are_chats := _is_chat(given)) or _is_prompt(given):
        return Prompts([given], is_batch=False, are_chats=are_chats)
    if not isinstance(given, Sequence) or isinstance(given, bytes):
        raise PayloadError(
            f"prompt: expected a text, token ids, a conversation or a list of these, not {type(given).__name__}"
        )
    chats = [_is_chat(item) for item in given]
    for number, (item, is_chat) in enumerate(zip(given, chats, strict=True)):
        if not is_chat and not _is_prompt(item):
            raise PayloadError(f"prompt {number} is neither a text, nor token ids, nor a conversation: {item!r:.60}")
    if any(chats) and not all(chats):
        raise PayloadError("a batch holds either conversations or other prompts; ask for them in two calls")
    return Prompts(list(given), is_batch=True, are_chats=any(chats))


def _is_prompt(item: Any) -> bool:
    if isinstance(item, str | Mapping):
        return True
    is_list = isinstance(item, Sequence) and not isinstance(item, bytes) and len(item) > 0
    return is_list and all(isinstance(token, int) and not isinstance(token, bool) for token in item)


def _is_chat(item: Any) -> bool:
    is_list = isinstance(item, Sequence) and not isinstance(item, str | bytes) and len(item) > 0
    return is_list and all(isinstance(message, Mapping) and "role" in message for message in item)
