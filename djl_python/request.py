# SPDX-License-Identifier: Apache-2.0
"""A request while it is generated: what was asked for, the tokens so far, and what to write of them."""

from typing import Any

from djl_python._rolling_batch_formatters import best_sequence, waits
from djl_python.output_formatter import adapt_legacy_output_formatter, get_output_formatter, writes_streams
from djl_python.request_io import RequestInput, TextGenerationOutput, Token
from djl_python.utils import is_streaming


class Request:
    """One request.

    Attributes:
        id: set by whoever batches; at first the request's own.
        request_input: what was asked for.
        request_output: what was generated.
    """

    def __init__(self, request_input: RequestInput):
        """Chooses how to write the answer.

        Raises:
            TypeError: the request asks for no formatter at all (`none`).
        """
        self.id: Any = request_input.request_id
        self.request_input = request_input
        self.request_output = TextGenerationOutput(request_id=request_input.request_id, input=request_input)
        stream = is_streaming(request_input.parameters)
        formatter, self._content_type = get_output_formatter(
            request_input.output_formatter, stream, request_input.tgi_compat
        )
        self._formatter = adapt_legacy_output_formatter(formatter)
        self._streams = stream or writes_streams(formatter)
        self._text = ""

    def set_next_token(self, next_token: Token, is_last_token: bool = False, finish_reason: str | None = None) -> None:
        """Appends a token to the best sequence."""
        next_token.request_id = self.id
        index = self.request_output.best_sequence_index
        self.request_output.set_next_token(next_token, index, is_last_token, finish_reason)

    def get_next_token(self) -> str:
        """What to write now; the same until `reset_next_token`.

        A stream writes all tokens that were not written yet, other formatters read one. Where several sequences were
        asked for, nothing is written before they are finished.
        """
        if not self._text:
            self._text = self._written()
        return self._text

    def reset_next_token(self) -> None:
        """What `get_next_token` returned is written."""
        self._text = ""

    def is_last_token(self) -> bool:
        """The generation has ended."""
        return self.request_output.finished

    def get_content_type(self) -> str | None:
        """The content type of the answer; None where a function of the user's writes it."""
        return self._content_type

    def _written(self) -> str:
        output = self.request_output
        held_back = waits(output)
        if held_back and not output.finished:
            return ""
        sequence, texts = best_sequence(output), []
        reads_all = self._streams or held_back
        unread = sequence.num_unread_tokens()
        while unread:
            texts.append(self._formatter(output) or "")
            before, unread = unread, sequence.num_unread_tokens()
            if not reads_all or unread == before:
                break
        return "".join(texts)
