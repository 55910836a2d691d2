# SPDX-License-Identifier: Apache-2.0
"""Where `model.py` files import the output formatter's decorator from, and the rolling batch's formats by name."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

from djl_python._chat_formatters import chat_lines as _jsonlines_chat_output_formatter
from djl_python._chat_formatters import chat_whole as _json_chat_output_formatter
from djl_python._rolling_batch_formatters import (
    EVENTS,
    JSON,
    JSON_LINES,
    best_sequence,
    get_details_dict,
    get_generated_text,
    get_sequence_details,
    joined,
)
from djl_python._rolling_batch_formatters import json_lines as _jsonlines_output_formatter
from djl_python._rolling_batch_formatters import json_whole as _json_output_formatter
from djl_python._rolling_batch_formatters import metered_lines as _3p_stream_output_formatter
from djl_python._rolling_batch_formatters import metered_whole as _3p_output_formatter
from djl_python.marks import init_handler, input_formatter, output_formatter, prediction_handler
from djl_python.request_io import RequestInput, RequestOutput, Sequence, TextGenerationOutput, TextInput, Token

__all__ = [
    "RequestInput",
    "RequestOutput",
    "Sequence",
    "TextGenerationOutput",
    "TextInput",
    "Token",
    "adapt_legacy_output_formatter",
    "get_details_dict",
    "get_generated_text",
    "get_output_formatter",
    "get_sequence_details",
    "init_handler",
    "input_formatter",
    "output_formatter",
    "prediction_handler",
    "sse_response_formatter",
]

logger = logging.getLogger(__name__)

_Formatter = Callable[[TextGenerationOutput], str]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def sse_response_formatter(formatter: _Formatter) -> _Formatter:
    """Makes a server-sent event of every line that a formatter writes."""

    @functools.wraps(formatter)
    def in_events(request_output: TextGenerationOutput) -> str:
        lines = formatter(request_output).split("\n")
        return "".join(f"data: {line}\n\n" for line in lines if line)

    return in_events


_sse_output_formatter = sse_response_formatter(_jsonlines_output_formatter)
_chat_events = sse_response_formatter(_jsonlines_chat_output_formatter)


def _sse_chat_output_formatter(request_output: TextGenerationOutput) -> str:
    """`sse_chat`: an event per token, then the one that says that there are no more."""
    events, sequence = _chat_events(request_output), best_sequence(request_output)
    is_last = events and sequence.get_last_token() is not None and not sequence.has_next_token()
    return f"{events}data: [DONE]\n\n" if is_last else events


_FORMATS: dict[str, tuple[_Formatter | None, str]] = {
    "json": (_json_output_formatter, JSON),
    "jsonlines": (_jsonlines_output_formatter, JSON_LINES),
    "sse": (_sse_output_formatter, EVENTS),
    "json_chat": (_json_chat_output_formatter, JSON),
    "jsonlines_chat": (_jsonlines_chat_output_formatter, JSON_LINES),
    "sse_chat": (_sse_chat_output_formatter, EVENTS),
    "3p": (_3p_output_formatter, JSON),
    "3p_stream": (_3p_stream_output_formatter, JSON_LINES),
    "none": (None, "text/plain"),
}

_OF_STREAMS = [formatter for formatter, kind in _FORMATS.values() if kind in (JSON_LINES, EVENTS)]


def writes_streams(formatter: Any) -> bool:
    """The function is one of the built-in ones that write something for every token."""
    return formatter in _OF_STREAMS


def get_output_formatter(
    output_formatter: str | Callable[..., Any] | None, stream: bool, tgi_compat: bool
) -> tuple[Callable[..., Any] | None, str | None]:
    """The function that writes an answer, and the content type of what it writes.

    Args:
        output_formatter: a format's name, or a function, whose content type nobody knows. Without either, and for a
            name that does not exist, the answer is JSON, or a stream of it.
        stream: the client asked for a stream.
        tgi_compat: answers look as TGI's do, so a stream is one of events.
    """
    if callable(output_formatter):
        return output_formatter, None
    if output_formatter in _FORMATS:
        return _FORMATS[output_formatter]
    default = ("sse" if tgi_compat else "jsonlines") if stream else "json"
    if output_formatter:
        logger.warning("There is no output formatter named %r; the answer is %s.", output_formatter, default)
    return _FORMATS[default]


def adapt_legacy_output_formatter(output_formatter: Any) -> _Formatter:
    """A formatter that takes an output: the function itself, or one around a function of the older kind.

    The older kind is called per token as `(token, first_token, last_token, details, generated_text, request_id)`, and
    may take fewer of these. A function is of the newer kind if the type of its first parameter is an output, or if
    that is its only parameter and has no type.

    Raises:
        TypeError: it is not a function.
    """
    if not callable(output_formatter):
        raise TypeError(f"{output_formatter!r} is not a callable object")
    parameters = list(inspect.signature(output_formatter).parameters.values())
    if _takes_output(parameters):
        formatter: _Formatter = output_formatter
        return formatter
    takes_all = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
    count = None if takes_all else sum(parameter.kind in _POSITIONAL for parameter in parameters)

    @functools.wraps(output_formatter)
    def per_token(request_output: TextGenerationOutput) -> str:
        sequence = best_sequence(request_output)
        token, index, is_first, is_last = sequence.get_next_token()
        if token is None:
            return ""
        token.request_id = request_output.request_id
        details = _details_so_far(request_output, index + 1, is_last)
        text = joined(sequence, index + 1)
        given = (token, is_first, is_last, details, text, request_output.request_id)
        written: str = output_formatter(*given[:count])
        return written

    return per_token


def _takes_output(parameters: list[inspect.Parameter]) -> bool:
    if not parameters:
        return False
    first = parameters[0]
    if first.annotation is inspect.Parameter.empty:
        return len(parameters) == 1 and first.kind in _POSITIONAL
    if isinstance(first.annotation, str):
        return first.annotation.rpartition(".")[2] in ("RequestOutput", "TextGenerationOutput")
    return isinstance(first.annotation, type) and issubclass(first.annotation, RequestOutput)


def _details_so_far(output: TextGenerationOutput, num_tokens: int, is_last: bool) -> dict[str, Any]:
    sequence = best_sequence(output)
    return {
        "finish_reason": sequence.finish_reason if is_last else None,
        "generated_tokens": num_tokens,
        "inputs": output.input.input_text,
        "tokens": [token.as_dict() for token in sequence.tokens[:num_tokens]],
        "parameters": output.input.parameters,
        "prompt_tokens": len(output.prompt_tokens_details),
    }
