# SPDX-License-Identifier: Apache-2.0
"""A chat request, checked; pydantic loads when one of the names is first asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from djl_python.chat_completions._models import ChatProperties, ImageInput, Message, TextInput

__all__ = ["ChatProperties", "ImageInput", "Message", "TextInput"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from djl_python.chat_completions import _models

    return getattr(_models, name)
