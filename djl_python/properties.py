# SPDX-License-Identifier: Apache-2.0
"""The properties of one request: a dict whose keys ignore case, with the model's options behind it."""

from collections.abc import Iterable, Mapping
from typing import Any

_WORDS = {
    "dnt": "DNT",
    "etag": "ETag",
    "md5": "MD5",
    "requestid": "RequestId",
    "sagemaker": "SageMaker",
    "te": "TE",
    "www": "WWW",
}
"""Words of header names whose usual spelling is not a capital and small letters."""

_OF_THE_REQUEST = {"handler", "content-type", "accept", "input_formatter", "output_formatter"}
"""What only a request itself can say, whatever options there are; besides these, names that begin with `batch_`."""

_SECRET_WORDS = {"token", "secret", "password", "key"}

_MISSING = object()


def header_case(name: str) -> str:
    """The usual capitalisation of a header name, such as `X-Amzn-SageMaker-Session-Id`; ASGI lower-cases them."""
    return "-".join(_WORDS.get(word, word.capitalize()) for word in name.lower().split("-"))


class Properties(dict[str, Any]):
    """A dict whose lookups ignore the case of keys; a key keeps the spelling that it was first set with.

    Options answer lookups of keys that the request does not have, and are otherwise invisible: iteration, `len`,
    equality and JSON see the request's own pairs, because handlers copy all of them into response headers. Secrets,
    and names that only a request can carry, are never looked up there.
    """

    def __init__(
        self, items: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), options: Mapping[str, Any] | None = None
    ):
        """Takes the request's own pairs, and the model's options by their names without `option.`."""
        super().__init__()
        self._spelling: dict[Any, str] = {}
        self._options = {_folded(name): value for name, value in (options or {}).items() if _may_show(name)}
        self.update(items)

    def without_items(self) -> "Properties":
        """Empty properties with the same options behind them."""
        return type(self)((), self._options)

    def copy(self) -> "Properties":
        """A shallow copy with the same options behind it."""
        return type(self)(self, self._options)

    def get(self, key: Any, default: Any = None) -> Any:
        """The value of the key in any spelling, else of the option, else `default`."""
        value = self._find(key)
        return default if value is _MISSING else value

    def update(self, *others: Any, **pairs: Any) -> None:
        """Sets every pair of a mapping or of an iterable of pairs."""
        for key, value in dict(*others, **pairs).items():
            self[key] = value

    def setdefault(self, key: str, default: Any = None) -> Any:
        """What a lookup of the key finds; where that is nothing, sets it first."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        """Takes out a pair of the request; options stay.

        Raises:
            KeyError: there is none, and no default is given.
        """
        return super().pop(self._spelling.pop(_folded(key), key), *default)

    def popitem(self) -> tuple[str, Any]:
        """Takes out the pair that was set last.

        Raises:
            KeyError: there is none.
        """
        key, value = super().popitem()
        del self._spelling[_folded(key)]
        return key, value

    def clear(self) -> None:
        """Takes out every pair of the request; options stay."""
        super().clear()
        self._spelling.clear()

    def _find(self, key: Any) -> Any:
        folded = _folded(key)
        if folded in self._spelling:
            return super().__getitem__(self._spelling[folded])
        return self._options.get(folded, _MISSING)

    def __getitem__(self, key: Any) -> Any:
        value = self._find(key)
        if value is _MISSING:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(self._spelling.setdefault(_folded(key), key), value)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(self._spelling.pop(_folded(key), key))

    def __contains__(self, key: object) -> bool:
        return self._find(key) is not _MISSING

    def __or__(self, other: Any) -> Any:
        merged = self.copy()
        merged.update(other)
        return merged

    def __ior__(self, other: Any) -> Any:
        self.update(other)
        return self

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return type(self), (dict(self), self._options)


def _folded(key: Any) -> Any:
    return key.lower() if isinstance(key, str) else key


def _may_show(option: str) -> bool:
    folded = option.lower()
    if folded in _OF_THE_REQUEST or folded.startswith("batch_"):
        return False
    return _SECRET_WORDS.isdisjoint(folded.replace("-", "_").replace(".", "_").split("_"))
