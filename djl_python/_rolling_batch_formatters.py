# SPDX-License-Identifier: Apache-2.0
"""The texts that LMI's rolling batch answers with, made of `request_io`'s objects.

A formatter is called step by step. Each call reads a token and returns what there is to write, which for whole answers
is nothing before the end.
"""

import json
from typing import Any

from djl_python.request_io import Sequence, TextGenerationOutput, Token
from djl_python.utils import wait_till_generation_finished

JSON = "application/json"
JSON_LINES = "application/jsonlines"
EVENTS = "text/event-stream"

ERROR_CODE = 400


def best_sequence(output: TextGenerationOutput) -> Sequence:
    """The sequence to show."""
    return output.sequences[output.best_sequence_index]


def waits(output: TextGenerationOutput) -> bool:
    """The client asked for several sequences, so nothing is written before all of them are there."""
    return wait_till_generation_finished(output.input.parameters)


def has_ended(output: TextGenerationOutput) -> bool:
    """Reads a token, and says whether a whole answer can be written now; that is so once.

    Where several sequences were asked for, all are read at once when the output is finished.
    """
    sequence = best_sequence(output)
    if not waits(output):
        return sequence.get_next_token()[3]
    if not (output.finished and sequence.has_next_token()):
        return False
    while sequence.has_next_token():
        sequence.get_next_token()
    return True


def joined(sequence: Sequence, end: int | None = None) -> str:
    """The text of a sequence, or of its tokens before `end`."""
    return "".join(token.text for token in sequence.tokens[:end])


def error_of(sequence: Sequence) -> str | None:
    """Why the generation broke off, where it did."""
    last = sequence.get_last_token()
    return last.error_msg if last else None


def dumped(value: Any) -> str:
    """A value as JSON."""
    return json.dumps(value, ensure_ascii=False)


def get_generated_text(sequence: Sequence, request_output: TextGenerationOutput) -> str:
    """The text of a sequence, after the prompt where the client asked for the full text."""
    text, asked = joined(sequence), request_output.input
    full = asked.parameters.get("return_full_text") and isinstance(asked.input_text, str)
    return f"{asked.input_text}{text}" if full else text


def get_sequence_details(
    request_output: TextGenerationOutput, sequence_index: int, include_tokens: bool = True
) -> dict[str, Any]:
    """One sequence: why it ended, its tokens, and what else the client asked for.

    Args:
        request_output: the answer that it is part of.
        sequence_index: which one.
        include_tokens: without them, only their number.
    """
    sequence, parameters = request_output.sequences[sequence_index], request_output.input.parameters
    tgi_keys = request_output.input.tgi_compat
    details: dict[str, Any] = {
        "finish_reason": sequence.finish_reason,
        "generated_tokens": len(sequence.tokens),
    }
    if include_tokens:
        details["tokens"] = _tokens(sequence.tokens, tgi_keys)
    if parameters.get("decoder_input_details"):
        details["prefill"] = _tokens(request_output.prompt_tokens_details, tgi_keys)
    if parameters.get("top_n_tokens"):
        details["top_tokens"] = [_tokens(position, tgi_keys) for position in sequence.top_tokens]
    return details


def get_details_dict(request_output: TextGenerationOutput, include_tokens: bool = True) -> dict[str, Any]:
    """The `details` of an answer: the best sequence, the prompt, and the other sequences where there are any."""
    best = get_sequence_details(request_output, request_output.best_sequence_index, include_tokens)
    before_inputs = () if waits(request_output) else ("finish_reason", "generated_tokens")
    details = {**dict.fromkeys(before_inputs), "inputs": request_output.input.input_text, **best}
    others = [
        {
            **get_sequence_details(request_output, index, include_tokens),
            "generated_text": get_generated_text(request_output.sequences[index], request_output),
        }
        for index in request_output.other_sequences_indices
    ]
    return {**details, "best_of_sequences": others} if others else details


def json_whole(request_output: TextGenerationOutput) -> str:
    """`json`: one object at the end; in a list where answers look as TGI's do."""
    if not has_ended(request_output):
        return ""
    sequence = best_sequence(request_output)
    answer: dict[str, Any] = {"generated_text": get_generated_text(sequence, request_output)}
    error = error_of(sequence)
    if error:
        answer = {"generated_text": None, "error": error, "code": ERROR_CODE}
    if error or waits(request_output) or _shows_details(request_output):
        answer["details"] = get_details_dict(request_output)
    return dumped([answer] if request_output.input.tgi_compat else answer)


def json_lines(request_output: TextGenerationOutput) -> str:
    """`jsonlines`: a line per token; the last one has the whole text, and the details that the client asked for."""
    sequence = best_sequence(request_output)
    token, _, _, is_last = sequence.get_next_token()
    if token is None:
        return ""
    line: dict[str, Any] = {"token": _token(token, request_output.input.tgi_compat)}
    if is_last:
        line["generated_text"] = get_generated_text(sequence, request_output)
        if token.error_msg or _shows_details(request_output):
            line["details"] = get_details_dict(request_output, include_tokens=False)
    return f"{dumped(line)}\n"


def metered_whole(request_output: TextGenerationOutput) -> str:
    """`3p`: one object with counts at the end; its text begins with the prompt."""
    if not has_ended(request_output):
        return ""
    sequence = best_sequence(request_output)
    text = f"{request_output.input.input_text}{joined(sequence)}"
    num_prompt_tokens = len(request_output.prompt_tokens_details)
    answer = _metered(text, num_prompt_tokens, len(sequence.tokens), sequence.finish_reason)
    return dumped({**answer, "content_type": JSON, **_error(error_of(sequence))})


def metered_lines(request_output: TextGenerationOutput) -> str:
    """`3p_stream`: such an object per token; only the first one counts the prompt."""
    sequence = best_sequence(request_output)
    token, index, is_first, is_last = sequence.get_next_token()
    if token is None:
        return ""
    num_prompt_tokens = len(request_output.prompt_tokens_details) if is_first else None
    answer = _metered(token.text, num_prompt_tokens, index + 1, sequence.finish_reason if is_last else None)
    return f"{dumped({**answer, 'content_type': JSON_LINES, **_error(token.error_msg)})}\n"


def _metered(text: str, num_prompt_tokens: int | None, num_tokens: int, reason: str | None) -> dict[str, Any]:
    body = {
        "generation": text,
        "prompt_token_count": num_prompt_tokens,
        "generation_token_count": num_tokens,
        "stop_reason": reason,
    }
    prompt = {} if num_prompt_tokens is None else {"inputTokenCount": num_prompt_tokens}
    return {"body": body, "metering": {**prompt, "outputTokenCount": num_tokens}}


def _error(message: str | None) -> dict[str, Any]:
    return {"error": {"error_code": ERROR_CODE, "error_msg": message}} if message else {}


def _shows_details(output: TextGenerationOutput) -> bool:
    """The client asked for details, or said nothing where TGI would show them."""
    return bool(output.input.parameters.get("details", output.input.tgi_compat))


def _tokens(tokens: list[Token], tgi_keys: bool) -> list[dict[str, Any]]:
    return [_token(token, tgi_keys) for token in tokens]


def _token(token: Token, tgi_keys: bool) -> dict[str, Any]:
    return token.as_tgi_dict() if tgi_keys else token.as_dict()
