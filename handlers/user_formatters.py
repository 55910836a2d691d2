# SPDX-License-Identifier: Apache-2.0
"""The user's formatters: functions that carry a mark, or a lone SageMaker `input_fn` or `output_fn`.

They run in this process, an input formatter before the payload is parsed and an output formatter on vLLM's own answer;
`generation.py` says when. `user_code.py` says from the syntax which file has some.
"""

import asyncio
import inspect
import json
import logging
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from djl_python.service_loader import execute_file, find_decorated_function, forget, has_function_in_module
from handlers.base import InferenceRequest, InferenceResponse
from handlers.dict_access import with_dict_access
from handlers.user_code import UserCode
from serving.errors import PayloadError
from serving.formatters.base import JSON, JSON_LINES

logger = logging.getLogger(__name__)

_INLINE_S = 0.005
"""A formatter of single chunks that takes longer would be felt by every other stream."""
_PREFIX = "_lmi_formatters"


class FormatterLoadError(Exception):
    """A file with formatters does not load. The text is `<type>: <text>` of the cause, which is chained."""


class UserFormatters:
    """The formatters of the model and of its adapters; none until `load` or `add_adapter` find some."""

    def __init__(self, base: "_Formatters | None" = None):
        self._base = base or _Formatters()
        self._adapters: dict[str, _Formatters] = {}

    @classmethod
    def load(cls, code: UserCode | None, model_dir: Path | None = None) -> "UserFormatters":
        """Executes the model's file, if there is one that has formatters.

        Args:
            code: the file.
            model_dir: is searched for modules beside the file's own directory, both after everything else.

        Raises:
            FormatterLoadError: the file does not load.
        """
        if code is None or not code.has_formatters:
            return cls()
        for directory in (model_dir, code.path.parent):
            if directory is not None and (entry := str(directory.resolve())) not in sys.path:
                sys.path.append(entry)
        return cls(_load(code.path))

    @property
    def is_empty(self) -> bool:
        """There is nothing that could change a request or an answer."""
        return not (self._base or self._adapters)

    @property
    def has_input(self) -> bool:
        """Some payloads go through a function of the user's."""
        return any(one.input is not None for one in (self._base, *self._adapters.values()))

    def input_for(self, adapter: str) -> "InputFormatter | None":
        """The adapter's own, else the model's."""
        own = self._adapters.get(adapter)
        return own.input if own is not None and own.input is not None else self._base.input

    def output_for(self, adapter: str) -> "OutputFormatter | None":
        """The adapter's own, else the model's."""
        own = self._adapters.get(adapter)
        return own.output if own is not None and own.output is not None else self._base.output

    def add_adapter(self, name: str, directory: Path) -> bool:
        """Executes the adapter's `model.py` and has its formatters replace what the name had.

        Modules beside it are reached by relative import only: several adapters may each have a `helper.py`.

        Returns:
            Whether it has a `model.py`.

        Raises:
            PayloadError: the file does not load; nothing has changed.
        """
        path = directory / "model.py"
        loaded = None
        if path.is_file():
            try:
                loaded = _load(path)
            except FormatterLoadError as error:
                logger.warning("%s does not load", path, exc_info=error.__cause__)
                raise PayloadError(f"Failed to load custom code for adapter {name}: {error}") from error
        self.remove_adapter(name)
        if loaded:
            self._adapters[name] = loaded
        elif loaded is not None:
            forget(loaded.module)
        return loaded is not None

    def replace_base(self, other: "UserFormatters") -> None:
        """From now on the model's formatters are those of `other`; the adapters keep theirs."""
        before, self._base = self._base, other._base
        if before:
            forget(before.module)

    def remove_adapter(self, name: str) -> None:
        """Forgets the adapter's code, if it has any."""
        if (removed := self._adapters.pop(name, None)) is not None:
            forget(removed.module)


class _Function:
    """One function of the user's.

    Args:
        function: as it stands in the module.
        is_lone: it is SageMaker's, which is called by position; otherwise it carries a mark.
    """

    direction = ""

    def __init__(self, function: Callable[..., Any], is_lone: bool):
        self._function = function
        self._name = getattr(function, "__qualname__", type(function).__name__)
        self._is_async = inspect.iscoroutinefunction(function)
        self.is_lone = is_lone

    async def _call(self, *args: Any, **keywords: Any) -> Any:
        """The function's result; one that is not a coroutine function runs in a thread."""
        if self._is_async:
            return await self._function(*args, **keywords)
        result, error = await asyncio.to_thread(_outcome, self._function, args, keywords)
        if error is not None:
            raise error
        return await result if inspect.isawaitable(result) else result

    @contextmanager
    def _failures(self, request: InferenceRequest) -> Iterator[None]:
        """Whatever goes wrong in the user's code is an answer to the client, and stands in the log with its trace."""
        try:
            yield
        except (Exception, SystemExit) as error:
            text = f"Custom {self.direction} formatter execution failed"
            logger.warning("request %s: %s in %s", request.request_id, text, self._name, exc_info=error)
            raise PayloadError(f"Custom formatter failed: {text}: {_told(error)}") from error


class InputFormatter(_Function):
    """Makes the payload of a request."""

    direction = "input"

    def __init__(self, function: Callable[..., Any], is_lone: bool):
        super().__init__(function, is_lone)
        self._takes_tokenizer = not is_lone and _accepts(function, "tokenizer")

    async def apply(self, request: InferenceRequest, payload: Any, tokenizer: Any) -> dict[str, Any]:
        """The payload instead of `payload`, the decoded body; a lone `input_fn` gets the bytes and their type.

        Raises:
            PayloadError: the function fails, or returns no dict.
        """
        keywords = {"tokenizer": tokenizer} if self._takes_tokenizer else {}
        args = (request.body, request.content_type or JSON) if self.is_lone else (payload,)
        with self._failures(request):
            made = await self._call(*args, **keywords)
            if not isinstance(made, Mapping):
                raise TypeError(f"{self._name} returned {type(made).__name__}, expected a dict")
            return dict(made)


class OutputFormatter(_Function):
    """Makes the answer of what vLLM's own routes would send."""

    direction = "output"

    def __init__(self, function: Callable[..., Any], is_lone: bool):
        super().__init__(function, is_lone)
        self._is_slow = False

    async def whole(self, request: InferenceRequest, answer: Any) -> InferenceResponse:
        """The answer for one of vLLM's response objects.

        Raises:
            PayloadError: the function fails, or returns what cannot be sent.
        """
        with self._failures(request):
            made = await self._call(with_dict_access(answer), *self._further(request))
            data = self._encoded(made) + b"\n"
        return InferenceResponse(data, _accepted_type(request) if self.is_lone else JSON)

    def stream(self, request: InferenceRequest, events: AsyncGenerator[str]) -> InferenceResponse:
        """The answer for a stream of vLLM's events (`data: {...}`); it fails where the function does."""
        return InferenceResponse(self._lines(request, events), JSON_LINES, framing="lines")

    async def _lines(self, request: InferenceRequest, events: AsyncGenerator[str]) -> AsyncGenerator[bytes]:
        """One item per event, `[DONE]` included, unless None stands for it; then a blank line, as LMI ends it."""
        further = self._further(request)
        async with aclosing(events):
            async for event in events:
                with self._failures(request):
                    made = await self._call_inline(event, *further)
                    data = None if made is None else self._encoded(made) + b"\n"
                if data is not None:
                    yield data
            yield b"\n"

    async def _call_inline(self, *args: Any) -> Any:
        """As `_call`, but in a thread only after a call that was slow: a thread costs more than most functions do."""
        if self._is_async or self._is_slow:
            return await self._call(*args)
        began = time.perf_counter()
        try:
            result = self._function(*args)
        finally:
            took_s = time.perf_counter() - began
            if took_s > _INLINE_S:
                self._is_slow = True
                logger.warning(
                    "output formatter %s took %.0f ms for one chunk; it runs in a thread from now on",
                    self._name,
                    1000 * took_s,
                )
        return await result if inspect.isawaitable(result) else result

    def _further(self, request: InferenceRequest) -> tuple[str, ...]:
        return (_accepted_type(request),) if self.is_lone else ()

    def _encoded(self, made: Any) -> bytes:
        if isinstance(made, bytes) and self.is_lone:
            return made
        if isinstance(made, str):
            text = made
        elif isinstance(made, dict | list):
            text = json.dumps(made, ensure_ascii=False, default=_plain)
        elif hasattr(made, "model_dump_json"):
            text = made.model_dump_json()
        elif hasattr(made, "model_dump"):
            text = json.dumps(made.model_dump(), ensure_ascii=False)
        else:
            expected = "expected a dict, a list, a str or an object with model_dump"
            raise TypeError(f"{self._name} returned {type(made).__name__}, {expected}")
        return text.encode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class _Formatters:
    """What one file has.

    Attributes:
        module: the name it was loaded under.
    """

    input: InputFormatter | None = None
    output: OutputFormatter | None = None
    module: str = ""

    def __bool__(self) -> bool:
        return self.input is not None or self.output is not None


def _load(path: Path) -> _Formatters:
    """Executes a file under a name of its own; relative imports find what lies beside it."""
    try:
        return _found(execute_file(str(path), str(path.parent), _PREFIX))
    except (Exception, SystemExit) as error:
        raise FormatterLoadError(_told(error)) from error


def _found(module: ModuleType) -> _Formatters:
    """The marked functions; where nothing is marked SageMaker's."""
    reads, writes = (find_decorated_function(module, mark) for mark in ("is_input_formatter", "is_output_formatter"))
    is_lone = reads is None and writes is None
    if is_lone:
        names = ("input_fn", "output_fn")
        reads, writes = (getattr(module, name) if has_function_in_module(module, name) else None for name in names)
    return _Formatters(
        InputFormatter(reads, is_lone) if reads is not None else None,
        OutputFormatter(writes, is_lone) if writes is not None else None,
        module.__name__,
    )


def _accepts(function: Callable[..., Any], keyword: str) -> bool:
    """`function` has this parameter, behind its first one, or takes any."""
    try:
        _, *further = inspect.signature(function).parameters.values()
    except ValueError:  # written in C, or without any parameter, which its call will tell
        return False
    takes_names = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(
        one.kind is inspect.Parameter.VAR_KEYWORD or (one.name == keyword and one.kind in takes_names)
        for one in further
    )


def _outcome(
    function: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Any, BaseException | None]:
    """Result or failure; some exceptions, such as `StopIteration`, cannot be handed from a thread to the loop."""
    try:
        return function(*args, **keywords), None
    except (Exception, SystemExit) as error:
        return None, error


def _plain(value: Any) -> Any:
    """For JSON: one of vLLM's objects inside a dict."""
    if hasattr(value, "model_dump"):
        return value.model_dump()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _accepted_type(request: InferenceRequest) -> str:
    """What the client wants back: the first type it accepts, or JSON where it takes anything."""
    accepted = request.headers.get("accept", "").split(",")[0].split(";q=")[0].strip()
    return JSON if not accepted or "*" in accepted else accepted


def _told(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
