# SPDX-License-Identifier: Apache-2.0
"""An ordered list of key-value pairs: the content of an `Input` and of an `Output`."""

from collections.abc import Mapping, Sequence
from typing import Any


class PairList:
    """Ordered pairs; a key may repeat, and may be None.

    Attributes:
        keys: the keys in order, a list (not a method, unlike a dict's).
        values: the values, of the same length.
    """

    def __init__(
        self,
        keys: list[Any] | None = None,
        values: list[Any] | None = None,
        pair_list: Sequence[tuple[Any, Any]] | None = None,
        pair_map: Mapping[Any, Any] | None = None,
    ):
        """Takes over `keys` and `values` without copying them, then appends the pairs of the other two.

        Raises:
            ValueError: `keys` and `values` differ in length.
        """
        self.keys: list[Any] = []
        self.values: list[Any] = []
        if keys and values:
            if len(keys) != len(values):
                raise ValueError("key value size mismatch.")
            self.keys, self.values = keys, values
        for key, value in [*(pair_list or ()), *(pair_map or {}).items()]:
            self._append(key, value)

    def add(
        self, key: Any = None, value: Any = None, index: int | None = None, pair: tuple[Any, Any] | None = None
    ) -> None:
        """Inserts at `index`, or appends `pair`, or appends `key` and `value`; without a value it does nothing."""
        if index is not None and value is not None:
            self.keys.insert(index, key)
            self.values.insert(index, value)
        elif pair:
            self._append(pair[0], pair[1])
        elif value is not None:
            self._append(key, value)

    def add_all(self, other: "PairList | None") -> None:
        """Appends every pair of `other`, in order."""
        if other:
            self.keys.extend(other.keys)
            self.values.extend(other.values)

    def size(self) -> int:
        """How many pairs there are."""
        return len(self.keys)

    def is_empty(self) -> bool:
        """There is no pair."""
        return not self.keys

    def get(self, key: Any) -> Any:
        """The value of the first pair with this key, or None."""
        return self.values[self.keys.index(key)] if key in self.keys else None

    def key_at(self, index: int) -> Any:
        """The key at a position.

        Raises:
            IndexError: there is no such position.
        """
        return self.keys[index]

    def value_at(self, index: int) -> Any:
        """The value at a position.

        Raises:
            IndexError: there is no such position.
        """
        return self.values[index]

    def get_keys(self) -> list[Any]:
        """The list of keys itself, not a copy."""
        return self.keys

    def get_values(self) -> list[Any]:
        """The list of values itself, not a copy."""
        return self.values

    def _append(self, key: Any, value: Any) -> None:
        self.keys.append(key)
        self.values.append(value)
