# SPDX-License-Identifier: Apache-2.0
"""What vLLM does for each token of an answer that has log-probabilities, made cheaper in this process.

vLLM decodes every id of every step anew, through a pool of tokenizers, and makes objects for the alternatives; here a
text is decoded once, and a request that shows the chosen tokens alone gets just those (docs/decisions/0016). Put in
place by `vllm_steps.py`; knows nothing of requests.
"""

from collections.abc import Sequence
from typing import Any

from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine import logprobs
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.outputs import LogprobsLists

from serving.engine.chunks import Vocabulary
from serving.schemas.generation import Token

_NUM_BEFORE = 4
"""No character has more bytes, so no more tokens can hold parts of one."""
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


class TokenTexts(dict[int, str]):
    """The text of each token by itself, as vLLM decodes it; no more of them than the vocabulary has.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: Any):
        super().__init__()
        self.tokenizer = tokenizer

    def __missing__(self, token_id: int) -> str:
        text: str = convert_ids_list_to_tokens(self.tokenizer, [token_id])[0]
        self[token_id] = text
        return text

    def of(self, tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
        """As vLLM's `convert_ids_list_to_tokens`, which this stands for."""
        if tokenizer is not self.tokenizer:
            return list(convert_ids_list_to_tokens(tokenizer, list(token_ids)))
        return [self[token_id] for token_id in token_ids]


class ChosenTokens(LogprobsProcessor):
    """vLLM's collector of log-probabilities, which has `Token`s for them: the chosen ones, without alternatives."""

    texts: TokenTexts
    vocabulary: Vocabulary
    cumulative_logprob: float

    def _update_sample_logprobs(self, logprobs_lists: LogprobsLists) -> None:
        made: Any = self.logprobs
        token_ids, values = logprobs_lists.logprob_token_ids, logprobs_lists.logprobs
        special_ids = self.vocabulary.special_ids
        for position in range(len(token_ids)):
            token_id, logprob = token_ids.item(position, 0), values.item(position, 0)
            text = self.texts[token_id]
            if text.endswith(_INCOMPLETE):
                text = self._correct_decoded_token(token_id, [token.id for token in made[-_NUM_BEFORE:]])
            self.cumulative_logprob += logprob
            made.append(Token(token_id, text, logprob, token_id in special_ids))


def keep_texts(tokenizer: Any, vocabulary: Vocabulary) -> None:
    """Has vLLM, and `ChosenTokens`, decode each token of the vocabulary by itself once.

    Args:
        tokenizer: the model's, as vLLM's output processor has it.
        vocabulary: which tokens are special.
    """
    texts = TokenTexts(tokenizer)
    logprobs.convert_ids_list_to_tokens = texts.of
    ChosenTokens.texts, ChosenTokens.vocabulary = texts, vocabulary
