# SPDX-License-Identifier: Apache-2.0
"""What a handler is called with: one request, or the empty call at start-up."""

import json
from typing import TYPE_CHECKING, Any

from djl_python.np_util import from_nd_list, from_npz
from djl_python.pair_list import PairList
from djl_python.properties import Properties, header_case

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = ["EmptyInputError", "Input", "Properties", "header_case"]

_BATCH_PREFIX = "batch_"


class EmptyInputError(ValueError, AttributeError):
    """The input has no content to read; an `AttributeError` too, because that is what LMI's own raises."""


class Input:
    """One request.

    Attributes:
        function_name: the handler to call; None on an input made by hand.
        properties: request headers and the server's additions. On the server, and by default, keys ignore case.
        content: query parameters, then the body: form fields, or a single pair named `data`.
    """

    def __init__(self) -> None:
        self.function_name: str | None = None
        self.properties: dict[str, Any] = Properties()
        self.content = PairList()

    def get_function_name(self) -> str | None:
        """The handler to call."""
        return self.function_name

    def get_properties(self) -> dict[str, Any]:
        """The properties themselves, not a copy."""
        return self.properties

    def get_property(self, key: str, default: Any = None) -> Any:
        """The value of the first property with this key in any spelling, or `default`."""
        if isinstance(self.properties, Properties):
            return self.properties.get(key, default)
        wanted = key.lower()
        return next((value for name, value in self.properties.items() if name.lower() == wanted), default)

    def get_content(self) -> PairList:
        """The content itself, not a copy."""
        return self.content

    def is_empty(self) -> bool:
        """There is no content at all. On the server that is the call at start-up only."""
        return self.content.is_empty()

    def contains_key(self, key: Any) -> bool:
        """The content has this key, with a value."""
        return self.content.get(key) is not None

    def is_batch(self) -> bool:
        """Several requests came together."""
        return "batch_size" in self.properties

    def get_batch_size(self) -> int:
        """How many requests came together; 1 outside a batch."""
        return int(self.properties.get("batch_size", 1))

    def get_batches(self) -> list["Input"]:
        """The single requests, in order: this one itself, or the items of a batch.

        Raises:
            ValueError: a content key does not say which item it belongs to (`batch_000.data`).
            TypeError: a content key is None.
        """
        if not self.is_batch():
            return [self]
        items = [self._item() for _ in range(self.get_batch_size())]
        for key, value in self.properties.items():
            if key.startswith(_BATCH_PREFIX) and key[6:9].isdigit():
                index, name = _batch_key(key, len(items))
                items[index].properties[name] = value
        for key, value in zip(self.content.keys, self.content.values, strict=True):
            index, name = _batch_key(key, len(items))
            items[index].content.add(name, value)
        return items

    def get_as_bytes(self, key: Any = None) -> Any:
        """The raw value of a content key; without one that of `data`, else the first. None when there is no content.

        Raises:
            KeyError: the content does not have the key.
        """
        if self.content.is_empty():
            return None
        if key:
            value = self.content.get(key)
            if value is None:
                raise KeyError(f"requested data for key:{key} is not found!")
            return value
        value = self.content.get("data")
        return self.content.value_at(0) if value is None else value

    def get_as_string(self, key: Any = None) -> str:
        """The value as UTF-8 text.

        Raises:
            EmptyInputError: there is no content.
            KeyError: the content does not have the key.
        """
        text: str = self._filled(key).decode("utf-8")
        return text

    def get_as_json(self, key: Any = None) -> Any:
        """The value parsed as JSON.

        Raises:
            EmptyInputError: there is no content.
            json.JSONDecodeError: it is not JSON; a ValueError.
            KeyError: the content does not have the key.
        """
        return json.loads(self._filled(key).decode("utf-8"))

    def get_as_numpy(self, key: Any = None) -> "list[np.ndarray[Any, Any]]":
        """The arrays of an NDList, of an `.npz` or of an `.npy` file; the first bytes tell which.

        Raises:
            EmptyInputError: there is no content.
            AssertionError: it is none of them.
        """
        return from_nd_list(self._filled(key))

    def get_as_npz(self, key: Any = None) -> "list[np.ndarray[Any, Any]]":
        """The arrays of an `.npz` file, in its order.

        Raises:
            EmptyInputError: there is no content.
            ValueError: the file is not one, or an array in it is pickled.
        """
        return from_npz(self._filled(key))

    def get_as_image(self, key: Any = None) -> "Image":
        """The value opened as a Pillow image; its pixels are read on first use.

        Raises:
            EmptyInputError: there is no content.
        """
        from io import BytesIO

        from PIL import Image as images

        return images.open(BytesIO(self._filled(key)))

    def get_as_csv(self, key: Any = None) -> list[dict[str, str]]:
        """The rows of CSV text, by the names in its first line.

        Raises:
            EmptyInputError: there is no content.
        """
        import csv
        from io import StringIO

        return list(csv.DictReader(StringIO(self.get_as_string(key))))

    def get_data(self, key: Any = None) -> Any:
        """The value as the content type says: arrays, JSON, text or an image; else bytes, or None without content."""
        kind = self.get_property("content-type") or ""
        if kind == "tensor/ndlist":
            return self.get_as_numpy(key)
        if kind == "tensor/npz":
            return self.get_as_npz(key)
        if kind.startswith("application/json"):
            return self.get_as_json(key)
        if kind.startswith("text/"):
            return self.get_as_string(key)
        if kind.startswith("image/"):
            return self.get_as_image(key)
        return self.get_as_bytes(key)

    def _filled(self, key: Any) -> Any:
        value = self.get_as_bytes(key)
        if value is None:
            raise EmptyInputError("the input is empty: it has no content to read")
        return value

    def _item(self) -> "Input":
        item = Input()
        if isinstance(self.properties, Properties):
            item.properties = self.properties.without_items()
        return item

    def __str__(self) -> str:
        pairs = [f"{key}: {self.get_data(key)}" for key in self.content.keys]
        return "\n".join([f"properties: {self.properties}", *pairs])


def _batch_key(key: str, size: int) -> tuple[int, str]:
    """Splits `batch_000.data` into 0 and `data`; any character may separate the two."""
    index = int(key[6:9])
    if not (key.startswith(_BATCH_PREFIX) and 0 <= index < size):
        raise ValueError(f"{key!r} names no item of a batch of {size}")
    return index, key[10:]
