# SPDX-License-Identifier: Apache-2.0
"""The chat objects that LMI's rolling batch answers with, made of `request_io`'s objects.

They are older than OpenAI's of today: one choice, no model, and in streams the role on the first object with text.
"""

import time
from typing import Any

from djl_python._rolling_batch_formatters import best_sequence, dumped, has_ended, joined
from djl_python.request_io import TextGenerationOutput, Token


def chat_whole(request_output: TextGenerationOutput) -> str:
    """`json_chat`: one object at the end."""
    if not has_ended(request_output):
        return ""
    sequence = best_sequence(request_output)
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": joined(sequence)},
        "logprobs": {"content": [_logprob(token, token.text) for token in sequence.tokens]}
        if _shows_logprobs(request_output)
        else None,
        "finish_reason": sequence.finish_reason,
    }
    num_prompt_tokens, num_tokens = len(request_output.prompt_tokens_details), len(sequence.tokens)
    usage = {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_tokens,
        "total_tokens": num_prompt_tokens + num_tokens,
    }
    return dumped({**_head(request_output, "chat.completion"), "choices": [choice], "usage": usage})


def chat_lines(request_output: TextGenerationOutput) -> str:
    """`jsonlines_chat`: a line per token.

    Log-probabilities look as LMI's own streams have them, slips included: in a list of their own, and with the number
    where the likeliest token's text belongs.
    """
    sequence = best_sequence(request_output)
    token, _, is_first, is_last = sequence.get_next_token()
    if token is None:
        return ""
    choice = {
        "index": 0,
        "delta": {"content": token.text, **({"role": "assistant"} if is_first else {})},
        "logprobs": [{"content": [_logprob(token, token.log_prob)]}] if _shows_logprobs(request_output) else None,
        "finish_reason": sequence.finish_reason if is_last else None,
    }
    return f"{dumped({**_head(request_output, 'chat.completion.chunk'), 'choices': [choice]})}\n"


def _head(output: TextGenerationOutput, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{output.request_id}", "object": kind, "created": int(time.time())}


def _shows_logprobs(output: TextGenerationOutput) -> bool:
    return bool(output.input.parameters.get("logprobs"))


def _logprob(token: Token, name: Any) -> dict[str, Any]:
    """A token, and itself as the only one of the likeliest, by `name` there."""
    encoded = list(token.text.encode("utf-8"))
    likeliest = {"token": name, "logprob": token.log_prob, "bytes": encoded}
    return {"token": token.text, "logprob": token.log_prob, "bytes": encoded, "top_logprobs": [likeliest]}
