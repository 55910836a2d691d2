# SPDX-License-Identifier: Apache-2.0
"""Short prompts are tokenized where they are, so that a request need not wait until other streams were written.

vLLM gives each prompt to a thread and gathers the answers, which lets everything else on the event loop go first, four
times; a short prompt takes less time than one such turn (docs/decisions/0018). Put in place by `vllm_engine.py`.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

from vllm.renderers.base import BaseRenderer
from vllm.tokenizers.hf import ThreadSafeHFTokenizerMixin

MOST_CHARACTERS = 1000
MOST_TOKENS = 2000
_TEXT = {"prompt"}
_TOKENS = {"prompt_token_ids"}


def make_quicker(renderer: BaseRenderer[Any]) -> None:
    """Has `renderer` make one short prompt of text or tokens ready at once, and everything else as before.

    Args:
        renderer: the engine's; its tokenizer is one that vLLM made safe for threads, else nothing is changed.
    """
    if isinstance(renderer.tokenizer, ThreadSafeHFTokenizerMixin):
        render: Any = partial(_render, _with_own_tokenizer(renderer), renderer.render_cmpl_async)
        renderer.render_cmpl_async = render


async def _render(quick: BaseRenderer[Any], others: Any, prompts: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
    """As `render_cmpl_async`; `others` is that."""
    if len(prompts) == 1 and _is_short(prompts[0]):
        return quick.render_cmpl(prompts, *args, **kwargs)
    return await others(prompts, *args, **kwargs)


def _is_short(prompt: Any) -> bool:
    """A prompt of text or tokens, without pictures and the like."""
    if not isinstance(prompt, dict):
        return False
    if prompt.keys() == _TEXT:
        return isinstance(prompt["prompt"], str) and len(prompt["prompt"]) <= MOST_CHARACTERS
    return prompt.keys() == _TOKENS and len(prompt["prompt_token_ids"]) <= MOST_TOKENS


def _with_own_tokenizer(renderer: BaseRenderer[Any]) -> BaseRenderer[Any]:
    """A renderer for the event loop's thread alone.

    Its tokenizer is a copy, as those in vLLM's pool are: each prompt sets how much of it may be cut, which would be
    found by whoever has what the copies were made of.
    """
    pooled = renderer.tokenizer
    plain_class: Any = type(pooled).__mro__[1]
    tokenizer = plain_class.__new__(plain_class)
    tokenizer.__dict__ = pooled.__dict__
    quick = copy.copy(renderer)
    quick.tokenizer = copy.deepcopy(tokenizer)
    return quick
