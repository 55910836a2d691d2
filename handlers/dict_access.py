# SPDX-License-Identifier: Apache-2.0
"""Lets users' formatters read vLLM's answers as the dicts that LMI's documentation speaks of."""

from functools import cache
from types import new_class
from typing import Any

from pydantic import BaseModel


class DictAccess:
    """`answer["choices"]`, `"choices" in answer` and what else one does with a dict, for a pydantic object."""

    def _fields(self) -> dict[str, Any]:
        return {**self.__dict__, **(getattr(self, "__pydantic_extra__", None) or {})}

    def __getitem__(self, name: str) -> Any:
        return self._fields()[name]

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def __contains__(self, name: object) -> bool:
        return name in self._fields()

    def get(self, name: str, default: Any = None) -> Any:
        """The field, or `default` if there is none of this name."""
        return self._fields().get(name, default)

    def keys(self) -> list[str]:
        """The fields' names; with them `dict(answer)` and `{**answer}` work."""
        return list(self._fields())

    def values(self) -> list[Any]:
        """The fields' values."""
        return list(self._fields().values())

    def items(self) -> list[tuple[str, Any]]:
        """The fields' names and values."""
        return list(self._fields().items())


def with_dict_access(value: Any) -> Any:
    """`value` itself, with `DictAccess` on top of it and of everything in it; attributes and `isinstance` stay."""
    if isinstance(value, BaseModel):
        if not isinstance(value, DictAccess):
            object.__setattr__(value, "__class__", _accessible(type(value)))
        inside = [*value.__dict__.values(), *(value.__pydantic_extra__ or {}).values()]
    elif isinstance(value, list):
        inside = value
    elif isinstance(value, dict):
        inside = list(value.values())
    else:
        return value
    for one in inside:
        with_dict_access(one)
    return value


@cache
def _accessible(kind: type[BaseModel]) -> type:
    """A subclass that looks like its parent."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return new_class(kind.__name__, (DictAccess, kind), exec_body=lambda body: body.update(names))
