# SPDX-License-Identifier: Apache-2.0
"""Telling a chat request from others."""

from typing import Any


def is_chat_completions_request(inputs: Any) -> bool:
    """The decoded body has messages."""
    return isinstance(inputs, dict) and "messages" in inputs
