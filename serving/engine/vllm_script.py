# SPDX-License-Identifier: Apache-2.0
"""vLLM's engine for scripts, a `vllm.LLM`: one batch after the other. Behind `serving.offline.Model`."""

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

from vllm import LLM
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
from vllm.engine.arg_utils import EngineArgs
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.lora.utils import get_adapter_absolute_path
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.renderers.chat_utils import load_chat_template
from vllm.sampling_params import BeamSearchParams
from vllm.v1.engine.core_client import InprocClient

from serving.engine.adapter_files import Checker
from serving.engine.child_output import ChildOutput
from serving.engine.lora_gate import stamp
from serving.engine.lora_places import NO_LORA, Places, numbers
from serving.engine.start_failure import one_line, start_failure
from serving.engine.vllm_errors import CLOSED, engine_errors, user_errors
from serving.engine.vllm_sampling import sampling_of
from serving.errors import AdapterRefused, EngineError, PayloadError

_in_process: WeakSet[Any] = WeakSet()
"""Engines that compute in this process. They share its process groups, which the end of any of them takes down."""
_ended: list[Any] = []
"""Those of them that nobody uses any more, and that end with the last one."""


class ScriptEngine:
    """Answers batches.

    Args:
        llm: the user's, or `start`'s.
        chat_template: text or path of a template that takes the place of the model's.

    Attributes:
        sampling: the parameters of a call on this model (`vllm_sampling.sampling_of`).
    """

    def __init__(self, llm: LLM, chat_template: str | None = None):
        self.llm = llm
        self._is_closed = False
        self._chat_template = load_chat_template(chat_template)
        config = llm.llm_engine.vllm_config
        self.sampling = sampling_of(llm.model_config, config.structured_outputs_config.backend)
        self._check: Checker | None = None
        if config.lora_config is not None:
            self._check = Checker(config.lora_config.max_lora_rank, Path(llm.model_config.model))
        self._places = Places(get_adapter_absolute_path)
        self._adapters: dict[str, tuple[object, LoRARequest]] = {}
        if isinstance(llm.llm_engine.engine_core, InprocClient):
            _in_process.add(llm.llm_engine.engine_core)

    @classmethod
    def start(cls, args: Namespace) -> "ScriptEngine":
        """Loads the model.

        Raises:
            ConfigError: it does not load.
        """
        output = ChildOutput()
        try:
            with output:
                llm = LLM.from_engine_args(EngineArgs.from_cli_args(args))
        except Exception as error:  # whatever a model or an argument makes vLLM raise
            raise start_failure(error, output) from error
        return cls(llm, args.chat_template)

    @property
    def model_config(self) -> Any:
        """The configuration that vLLM made for the model."""
        return self.llm.model_config

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self.llm.get_tokenizer()

    def run(self, prompts: Sequence[Any], are_chats: bool, params: Any, lora: str | None, progress: bool) -> list[Any]:
        """One of vLLM's finished `RequestOutput`s for each prompt.

        Args:
            prompts: what `LLM.generate` takes, or conversations.
            are_chats: they are conversations.
            params: of `sampling`.
            lora: directory or Hub id of an adapter.
            progress: a bar on standard error shows how far it is.

        Raises:
            PayloadError: vLLM refuses a prompt or a value; none of the others is answered then.
            AdapterRefused: the adapter does not load.
            EngineError, EngineDead: the engine failed, or was shut down.
        """
        if self._is_closed:
            raise EngineError(CLOSED)
        request = self.load_lora(lora) if lora is not None else None
        with self._nothing_left():
            if isinstance(params, BeamSearchParams):
                with user_errors():
                    plain = [self._tokens(prompt) if are_chats else _plain(prompt) for prompt in prompts]
                    found = self.llm.beam_search(plain, params, lora_request=request, use_tqdm=progress)
                return [_as_output(one.sequences, self.tokenizer, params) for one in found]
            with user_errors():
                if are_chats:
                    self.llm.enqueue_chat(prompts, params, False, request, chat_template=self._chat_template)
                else:
                    self.llm.enqueue(prompts, params, request, use_tqdm=False)
            with engine_errors():
                outputs: list[Any] = self.llm.wait_for_completion(RequestOutput, use_tqdm=progress)
            return outputs

    def load_lora(self, where: str) -> LoRARequest:
        """Takes an adapter up; the same directory has the same number for as long as its files are the same.

        Raises:
            PayloadError: the engine takes no adapters.
            AdapterRefused: it does not load.
        """
        if self._check is None:
            raise PayloadError(NO_LORA)
        directory = self._places.directory(where)
        content = stamp(directory)
        before = self._adapters.get(directory)
        if before is not None and before[0] == content:
            return before[1]
        self._check(Path(directory))
        number = next(numbers)
        # The prefix cache goes by the name, which no earlier content of the directory had.
        request = LoRARequest(f"{directory}#{number}", number, directory)
        try:
            self.llm.llm_engine.add_lora(request)
        except Exception as error:  # the engine raises whatever reading the files made it raise
            raise AdapterRefused(one_line(error)) from error
        if before is not None:
            self.llm.llm_engine.remove_lora(before[1].lora_int_id)
        self._adapters[directory] = content, request
        return request

    def unload_lora(self, where: str) -> None:
        """Gives an adapter's memory back; one that is not loaded is no error."""
        if (known := self._adapters.pop(self._places.directory(where), None)) is not None:
            self.llm.llm_engine.remove_lora(known[1].lora_int_id)

    def directory(self, where: str) -> str:
        """The one spelling of an adapter's directory."""
        return self._places.directory(where)

    def shutdown(self) -> None:
        """Ends the engine and its processes; one that computes in this process ends with the last one that does."""
        if self._is_closed:
            return
        self._is_closed = True
        core = self.llm.llm_engine.engine_core
        if core not in _in_process:
            core.shutdown()
            return
        _in_process.discard(core)
        _ended.append(core)
        if not _in_process:
            while _ended:
                _ended.pop().shutdown()
            cleanup_dist_env_and_memory()

    def _tokens(self, conversation: Any) -> TokensPrompt:
        """A conversation as tokens; beams take nothing else."""
        rendered: Any = self.llm._preprocess_chat([conversation], chat_template=self._chat_template)[0]
        return TokensPrompt(prompt_token_ids=rendered["prompt_token_ids"])

    @contextmanager
    def _nothing_left(self) -> Iterator[None]:
        """What is interrupted is aborted; otherwise the next call would get the answers of this one."""
        try:
            yield
        except BaseException:
            outputs = self.llm.llm_engine.output_processor
            self.llm.llm_engine.abort_request(list(outputs.request_states), internal=True)
            outputs.parent_requests.clear()
            raise


def _plain(prompt: Any) -> Any:
    """A prompt as beams take it."""
    if isinstance(prompt, str | Mapping):
        return prompt
    return TokensPrompt(prompt_token_ids=list(prompt))


def _as_output(beams: Sequence[Any], tokenizer: Any, params: BeamSearchParams) -> RequestOutput:
    """The beams of one prompt, whose tokens begin with the prompt's, as samples have them."""
    prompt_ids = list(beams[0].orig_prompt["prompt_token_ids"]) if beams else []
    choices = []
    for index, beam in enumerate(beams):
        ids = beam.tokens[len(prompt_ids) :]
        is_whole = bool(ids) and ids[-1] == tokenizer.eos_token_id and not params.ignore_eos
        choices.append(
            CompletionOutput(
                index=index,
                text=tokenizer.decode(ids, skip_special_tokens=params.skip_special_tokens),
                token_ids=ids,
                cumulative_logprob=beam.cum_logprob,
                logprobs=beam.logprobs,
                finish_reason=beam.finish_reason or ("stop" if is_whole else "length"),
            )
        )
    return RequestOutput("beams", None, prompt_ids, None, choices, finished=True)
