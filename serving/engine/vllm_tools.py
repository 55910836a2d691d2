# SPDX-License-Identifier: Apache-2.0
"""The tool parser that vLLM has where no other is configured, and a prompt that tells every model of its functions.

vLLM's serving objects call a parser for chats, responses and messages alike, streamed or not, so this is the one place
for all of them. What calls look like is `serving/tools/`'s business. Installed by `vllm_app.py`.
"""

import json
import logging
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from starlette.datastructures import State
from vllm.entrypoints.generate.base.protocol import (
    DeltaFunctionCall,
    DeltaMessage,
    DeltaToolCall,
    ExtractedToolCallInformation,
    FunctionCall,
    ToolCall,
)
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.exceptions import VLLMValidationError
from vllm.renderers.chat_utils import make_tool_call_id
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.sampling_params import StructuredOutputsParams
from vllm.tool_parsers import ToolParser, ToolParserManager
from vllm.utils.mistral import is_mistral_tokenizer

from serving import request_record
from serving.engine.vllm_json import GRAMMAR_BACKENDS, compact_json
from serving.tools import prompt
from serving.tools.functions import Call, Functions
from serving.tools.readers import ArgumentsReader, ListReader, PlainReader, Reader, TextReader, joined, whole

logger = logging.getLogger(__name__)

NAME = "lmi_fallback"
_MOST_CHARACTERS = 256 * 1024
"""Of functions in one request: checking them takes the event loop's time."""


def install(args: Namespace, client: Any) -> None:
    """Makes the parser the one that vLLM's serving objects will use, unless one is configured or the model has its own.

    Args:
        args: vLLM's, before the serving objects are made of them.
        client: vLLM's.
    """
    if args.tool_call_parser:
        return
    is_mistral = is_mistral_tokenizer(client.renderer.tokenizer)
    if is_mistral or client.model_config.hf_config.model_type == "gpt_oss":
        own = "mistral" if is_mistral else "openai"
        logger.warning("this model writes calls of functions in a form of its own: set tool_call_parser=%s", own)
        return
    backend = args.structured_outputs_config.backend

    class Parser(FallbackToolParser):
        writes_grammar = backend in GRAMMAR_BACKENDS

    ToolParserManager.register_module(NAME, module=Parser)
    args.tool_call_parser, args.enable_auto_tool_choice = NAME, True


def note_modes(state: State) -> None:
    """Has requests with tools say what reads their answers, and those without go without this parser."""
    for serving in vars(state)["_state"].values():
        if isinstance(serving, OpenAIServingChat) and serving.parser_cls is not None:
            serving._make_parser = _noting(serving._make_parser, serving.parser_cls)


def _noting(make: Callable[..., Any], parser_class: Any) -> Callable[..., Any]:
    is_fallback = issubclass(parser_class.tool_parser_cls or object, FallbackToolParser)
    reads_reasoning = parser_class.reasoning_parser_cls is not None

    def make_parser(request: Any, *arguments: Any) -> Any:
        if not request.tools:
            return None if is_fallback and not reads_reasoning else make(request, *arguments)
        request_record.note(tools="fallback" if is_fallback else "parser")
        return make(request, *arguments)

    return make_parser


class FallbackToolParser(ToolParser):
    """Recognizes calls in plain text; makes the engine write them where the request demands some.

    Attributes:
        writes_grammar: what engines are made to write is told as a grammar, which allows no blanks.
    """

    writes_grammar = True
    supports_required_and_named = False
    engine_based_streaming = True  # for the call of `finish_streaming`; texts come as deltas then

    def __init__(self, tokenizer: Any, tools: list[Any] | None = None):
        super().__init__(tokenizer, tools)
        self._reader: Reader | None = None
        self._num_calls = 0

    def adjust_request(self, request: Any) -> Any:
        """Constrains the answer to calls where `tool_choice` demands them.

        Raises:
            VLLMValidationError: a function's schema is none that the engine can follow.
        """
        functions, demanded = self._functions(), _demanded(request)
        if demanded is None:
            return request
        if demanded not in functions and (demanded or not self.tools):
            raise VLLMValidationError(f"there is no function {demanded!r}", parameter="tool_choice")
        is_parallel = request.parallel_tool_calls is not False
        schema = functions.schema_of(demanded) if demanded else functions.list_schema(is_parallel)
        try:
            constraint = compact_json(json.dumps(schema), self.writes_grammar)
        except ValueError as error:
            text = f"the parameters of a function cannot be followed: {error}"
            raise VLLMValidationError(text, parameter="tools") from None
        # A new object each time: vLLM writes into it.
        request.structured_outputs = StructuredOutputsParams(**constraint)
        if hasattr(request, "response_format"):
            request.response_format = None
        else:
            request.text = None
        return request

    def extract_tool_calls(self, model_output: str, request: Any) -> ExtractedToolCallInformation:
        """The calls of a whole answer, and the text beside them."""
        text, calls = whole(self._make_reader(request), model_output)
        made = [
            ToolCall(id=make_tool_call_id(), function=FunctionCall(name=call.name, arguments=call.arguments))
            for call in calls
        ]
        # Half of what was demanded is no text for anybody: there is no call then, and nothing else.
        is_taken = bool(made) or _demanded(request) is not None
        return ExtractedToolCallInformation(tools_called=is_taken, tool_calls=made, content=text)

    def extract_tool_calls_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
        request: Any,
    ) -> DeltaMessage | None:
        """What is known of the answer with this piece; a call only once it is complete."""
        if self._reader is None:
            self._reader = self._make_reader(request)
        return self._delta(self._reader.feed(delta_text))

    def finish_streaming(self) -> DeltaMessage | None:
        """What was held back until the end."""
        return self._delta(self._reader.feed("", is_last=True)) if self._reader is not None else None

    def _make_reader(self, request: Any) -> Reader:
        if not self.tools or request.tool_choice == "none":
            return PlainReader()
        functions, demanded = self._functions(), _demanded(request)
        if demanded is None:
            return TextReader(functions)
        return ArgumentsReader(functions, demanded) if demanded else ListReader(functions)

    def _functions(self) -> Functions:
        given = [getattr(tool, "function", tool) for tool in self.tools]
        return _functions(json.dumps([(function.name, function.parameters) for function in given]))

    def _delta(self, found: list[Call | str]) -> DeltaMessage | None:
        text, calls = joined(found)
        if not text and not calls:
            return None
        deltas = []
        for call in calls:
            function = DeltaFunctionCall(name=call.name, arguments=call.arguments)
            deltas.append(
                DeltaToolCall(id=make_tool_call_id(), type="function", index=self._num_calls, function=function)
            )
            self._num_calls += 1
        fields: dict[str, Any] = {"content": text} if text else {}
        return DeltaMessage(**fields, tool_calls=deltas) if deltas else DeltaMessage(**fields)


def tell_of_tools(renderer: OnlineRenderer) -> None:
    """Has `renderer` show functions, calls and results to models whose chat template does not."""
    preprocess = renderer.preprocess_chat

    async def preprocess_chat(
        request: Any, messages: list[Any], default_template: str | None, *arguments: Any, **keywords: Any
    ) -> Any:
        tools = keywords.get("tool_dicts")
        if tools or any(map(_is_about_calls, messages)):
            template = _template(renderer, request, default_template)
            if template is not None:
                if not prompt.knows_calls(template):
                    messages = prompt.with_calls_as_text(messages)
                if tools and not prompt.knows_tools(template):
                    messages = prompt.with_functions(messages, tools, prompt.takes_system(template))
        return await preprocess(request, messages, default_template, *arguments, **keywords)

    renderer.preprocess_chat = preprocess_chat


def _is_about_calls(message: Any) -> bool:
    fields = message if isinstance(message, dict) else vars(message)
    return fields.get("role") in ("tool", "function") or bool(fields.get("tool_calls"))


def _template(renderer: OnlineRenderer, request: Any, default: str | None) -> str | None:
    """The template that will be rendered; None where the model's own code does that instead."""
    template = getattr(request, "chat_template", None) or default
    template = template or getattr(renderer.renderer.tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("tool_use") or template.get("default")
    return template if isinstance(template, str) else None


def _demanded(request: Any) -> str | None:
    """The function that the request demands a call of, empty for any of them; None where it demands none."""
    choice = request.tool_choice
    if choice == "required":
        return ""
    if choice is None or isinstance(choice, str):
        return None
    name = getattr(getattr(choice, "function", choice), "name", None)
    return name if isinstance(name, str) else None


@lru_cache(maxsize=64)
def _functions(given: str) -> Functions:
    """Once for the several times that one request asks, and for requests with the same functions.

    Raises:
        VLLMValidationError: a schema is none.
    """
    if len(given) > _MOST_CHARACTERS:
        text = f"the functions are {len(given)} characters of JSON, more than {_MOST_CHARACTERS}"
        raise VLLMValidationError(text, parameter="tools")
    try:
        return Functions((name, parameters) for name, parameters in json.loads(given))
    except ValueError as error:
        raise VLLMValidationError(str(error), parameter="tools") from None
