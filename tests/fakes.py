# SPDX-License-Identifier: Apache-2.0
"""A scripted engine that stands for `generate` only: the tokens the contract's golden rows were recorded with."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from serving.engine.base import ModelFacts
from serving.errors import EngineDead, PayloadError, ServingError
from serving.schemas.generation import EmbeddingRequest, GenerationChunk, GenerationRequest, OpenAIRequest, Token

EOS = 1
PROMPTS: Mapping[str, list[Token]] = {
    "hello world": [
        Token(74, "h", None),
        Token(71, "e", -6.53),
        Token(412, "ll", -6.65),
        Token(81, "o", -5.99),
        Token(410, " wor", -5.87),
        Token(78, "l", -5.97),
        Token(70, "d", -6.70),
    ],
}
ANSWERS: Mapping[str, list[Token]] = {
    "hello world": [
        Token(349, "ement", -5.26),
        Token(349, "ement", -5.38),
        Token(367, " Licensee", -5.40),
        Token(349, "ement", -5.28),
        Token(367, " Licensee", -5.40),
        Token(338, "ation", -5.39),
        Token(367, " Licensee", -5.41),
        Token(338, "ation", -5.40),
    ],
    "hello": [Token(257, "\N{REPLACEMENT CHARACTER}", -5.34), Token(367, " Licensee", -5.35)],
    "world": [Token(498, "CH", -5.1), Token(10, "(", -5.2)],
}


SAMPLED: Sequence[Sequence[Token]] = (
    (Token(374, "op", -1.0), Token(482, " y", -1.0)),
    (Token(103, "", -2.0), Token(94, "|", -2.0)),
)
"""What several choices come to; the first one is the most likely."""
SECOND = Token(257, "", -5.36)
END = Token(EOS, "</s>", -6.04, is_special=True)


class FakeEngine:
    """Answers from the script; counts what is in flight; can be told to be slow, to fail or to be dead.

    Attributes:
        requests: every request that came in.
        tokens_per_step: how many tokens one chunk of a stream carries.
        step_s: seconds before each chunk.
        failure: raised after `fail_after` chunks.
    """

    def __init__(self, adapters: Sequence[str] = ()):
        self.adapters = list(adapters)
        self.facts = ModelFacts("org/m", "bfloat16", 512, 32)
        self.tasks: Sequence[str] = ("generate",)
        self.is_dead = False
        self.num_in_flight = 0
        self.requests: list[GenerationRequest] = []
        self.tokens_per_step = 1
        self.step_s = 0.0
        self.failure: ServingError | Exception | None = None
        self.fail_after = 0

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk]:
        self.requests.append(request)
        if self.is_dead:
            raise EngineDead
        self.num_in_flight += 1
        try:
            chunks = list(self._chunks(request))
            for number, chunk in enumerate(chunks):
                await asyncio.sleep(self.step_s)
                if self.failure is not None and number >= self.fail_after:
                    raise self.failure
                yield chunk
        finally:
            self.num_in_flight -= 1

    async def embed(self, request: EmbeddingRequest) -> list[list[float]]:
        return [[float(len(text)), 0.5] for text in request.inputs]

    async def openai(self, request: OpenAIRequest, headers: Mapping[str, str]) -> bytes | AsyncGenerator[bytes]:
        raise PayloadError("the scripted engine answers LMI payloads only")

    def _chunks(self, request: GenerationRequest) -> list[GenerationChunk]:
        fields = request.fields
        count = int(fields["max_tokens"])
        if fields.get("n", 1) == 1:
            return self._choice(request, 0, self._script(request, count))
        choices = [self._choice(request, index, SAMPLED[index % 2][:count]) for index in range(fields["n"])]
        return [chunk for step in zip(*choices, strict=True) for chunk in step]

    def _script(self, request: GenerationRequest, count: int) -> list[Token]:
        if request.fields.get("allowed_token_ids") == [EOS]:
            return [END]
        script = ANSWERS.get(str(request.prompt), ANSWERS["hello world"])
        return [script[number % len(script)] for number in range(count)]

    def _choice(self, request: GenerationRequest, index: int, tokens: Sequence[Token]) -> list[GenerationChunk]:
        """The chunks of one choice."""
        fields = request.fields
        stops = [fields["stop"]] if isinstance(fields.get("stop"), str) else fields.get("stop", [])
        reason: str | int | None = None
        finish, text = "length", ""
        kept: list[Token] = []
        for token in tokens:
            kept.append(token)
            if token.is_special:
                finish = "stop"
                break
            text += token.text
            if found := next((stop for stop in stops if stop in text), None):
                end = len(found) if fields.get("include_stop_str_in_output") else 0
                finish, reason, text = "stop", found, text[: text.index(found) + end]
                break
            if token.id in fields.get("stop_token_ids", []):
                finish, reason, text = "stop", token.id, text[: -len(token.text)]
                break
        shown = kept if fields.get("logprobs") is not None else []
        prompt = PROMPTS.get(str(request.prompt), [Token(0, str(request.prompt), None)])
        size = self.tokens_per_step if request.stream else len(kept)
        chunks, written = [], 0
        for start in range(0, len(kept), size):
            part = kept[start : start + size]
            is_last = start + size >= len(kept)
            so_far = text if is_last else "".join(token.text for token in kept[: start + size])[: len(text)]
            chunk = GenerationChunk(index, so_far[written:], shown[start : start + size], len(part))
            chunk.num_prompt_tokens = len(prompt)
            chunk.top_tokens = [[token, SECOND] for token in chunk.tokens] if request.num_top_tokens else []
            written = len(so_far)
            if is_last:
                chunk.finish_reason, chunk.stop_reason = finish, reason
                chunk.prompt_tokens = prompt if fields.get("prompt_logprobs") else []
                chunk.cumulative_logprob = sum(token.logprob or 0 for token in kept)
            chunks.append(chunk)
        return chunks
