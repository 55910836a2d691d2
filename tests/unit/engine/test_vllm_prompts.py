# SPDX-License-Identifier: Apache-2.0
"""A prompt that is rendered at once is the same prompt."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.renderers import BaseRenderer, renderer_from_config
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.renderers.params import TokenizeParams

from serving import demo
from serving.engine import vllm_prompts
from serving.engine.engine_args import namespace
from serving.engine.vllm_prompts import MOST_CHARACTERS, MOST_TOKENS

pytestmark = pytest.mark.vllm
LIMIT = TokenizeParams(max_total_tokens=2048, add_special_tokens=True)


@pytest.fixture(scope="module")
def plain() -> BaseRenderer[Any]:
    args = namespace({"model": str(demo.MODEL_DIR), "max_model_len": 2048})
    return renderer_from_config(AsyncEngineArgs.from_cli_args(args).create_engine_config())


@pytest.fixture
def quicker(plain: BaseRenderer[Any]) -> BaseRenderer[Any]:
    renderer = copy.copy(plain)
    vllm_prompts.make_quicker(renderer)
    return renderer


async def rendered(renderer: BaseRenderer[Any], *prompts: Any, **extras: Any) -> list[dict[str, Any]]:
    parsed = [parse_model_prompt(renderer.model_config, prompt) for prompt in prompts]
    made = await renderer.render_cmpl_async(parsed, LIMIT, prompt_extras=extras)
    return [{name: value for name, value in one.items() if name != "arrival_time"} for one in made]


PROMPTS: dict[str, tuple[list[Any], bool]] = {
    "text": (["Words, \N{EURO SIGN}"], True),
    "empty": ([""], True),
    "tokens": ([[300, 301]], True),
    "long text": (["x " * MOST_CHARACTERS], False),
    "many tokens": ([[300] * (MOST_TOKENS + 1)], False),
    "several": (["a", "b"], False),
    "more than text": ([{"prompt": "a", "multi_modal_data": None}], False),
}


@pytest.mark.parametrize(("prompts", "is_at_once"), PROMPTS.values(), ids=PROMPTS)
async def test_same(plain: BaseRenderer[Any], quicker: BaseRenderer[Any], prompts: list[Any], is_at_once: bool) -> None:
    expected = await rendered(plain, *prompts, cache_salt="x")
    assert await rendered(quicker, *prompts, cache_salt="x") == expected
    rendering = rendered(quicker, *prompts, cache_salt="x")
    if is_at_once:
        with pytest.raises(StopIteration):
            rendering.send(None)
    else:
        assert rendering.send(None) is not None
        rendering.close()


async def test_tokenizer_of_others_is_left_whole(plain: BaseRenderer[Any], quicker: BaseRenderer[Any]) -> None:
    """What is behind the pool, which code of users may reach, cuts nothing after a prompt that was to be cut."""
    await rendered(quicker, "some words that are many", cache_salt="x")
    short = TokenizeParams(max_total_tokens=2048, truncate_prompt_tokens=2)
    parsed = [parse_model_prompt(quicker.model_config, "some words that are many")]
    ((made),) = await quicker.render_cmpl_async(parsed, short)
    assert len(made["prompt_token_ids"]) == 2
    assert plain.tokenizer.backend_tokenizer.truncation is None


async def test_refusals_are_the_same(plain: BaseRenderer[Any], quicker: BaseRenderer[Any]) -> None:
    for prompt in ([300] * 2049, "\N{EURO SIGN}" * (MOST_CHARACTERS - 1)):
        texts = []
        for renderer in (plain, quicker):
            with pytest.raises(VLLMValidationError) as refused:
                await rendered(renderer, prompt)
            texts.append(str(refused.value))
        assert texts[0] == texts[1]


def test_other_tokenizers() -> None:
    """One that is not safe for threads is left to vLLM."""
    renderer: Any = SimpleNamespace(tokenizer=object(), render_cmpl_async=None)
    vllm_prompts.make_quicker(renderer)
    assert renderer.render_cmpl_async is None
