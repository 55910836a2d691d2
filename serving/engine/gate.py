# SPDX-License-Identifier: Apache-2.0
"""The proxy around vLLM's engine client that every route goes through, `/v1/*` included.

vLLM's own routes and ours hold this object instead of the client. Whatever must hold for every request belongs here and
nowhere else: what is in flight, how much of that is taken on, how long an output may take, which adapters it may use,
what is noted of it for the log.
"""

import asyncio
import math
import sys
from collections.abc import AsyncGenerator, Callable
from http import HTTPStatus
from typing import Any
from weakref import WeakSet

from serving import overload, request_record
from serving.config.limits import Limits
from serving.engine.lora_gate import KnownLora, LoraGate
from serving.errors import AdapterRefused, AdapterSlotsExhausted
from serving.request_record import RequestRecord

_SWEEP_S = 0.25
"""How often outputs are looked for that are late; no timer is made per output."""
_UNUSED_S = 0.5
"""Outputs that nobody began to read for this long were dropped, such as the first ones of a batch that was refused."""
_NONE = Limits(num_in_flight=sys.maxsize, first_output_s=math.inf, gap_s=math.inf, start_s=math.inf)


class EngineGate:
    """An engine client that counts, refuses and gives up waiting; every other attribute is the client's own.

    Args:
        client: vLLM's engine client.
        model_name: the endpoint's name, for the refusal.
        refusal: makes the exception that all routes understand, from a sentence and a status.
        loras: the adapters.

    Attributes:
        limits: what is taken on, and how long is waited; None, for no limits, until the server is started.
        is_traced: the engine tells a tracing back end of its work.
        num_outputs: that came from the engine.
    """

    def __init__(self, client: Any, model_name: str, refusal: Callable[[str, HTTPStatus], Exception], loras: LoraGate):
        self._client = client
        self._model_name = model_name
        self._refusal = refusal
        self.loras = loras
        self.limits: Limits | None = None
        self.is_traced = False
        self._streams: WeakSet[Outputs] = WeakSet()
        self._sweeper: asyncio.TimerHandle | None = None
        self.num_outputs = 0
        self._num_outputs_seen = 0
        self._progress_at = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    @property
    def num_in_flight(self) -> int:
        """Requests handed over and not finished."""
        return len(self._streams)

    @property
    def stalled_s(self) -> float:
        """Seconds since anything came from the engine, while requests wait for it; about a sweep's time at best."""
        return asyncio.get_running_loop().time() - self._progress_at if self._sweeper is not None else 0.0

    def generate(self, *args: Any, **kwargs: Any) -> "Outputs":
        """As the client's. In flight from this call until the last item, a failure, the close, or nobody holds it.

        Raises:
            Exception: made by `refusal`, 503: as much is in flight as the limits allow.
        """
        return self._admitted(self._client.generate, args, kwargs)

    def encode(self, *args: Any, **kwargs: Any) -> "Outputs":
        """As the client's; admitted and timed like `generate`."""
        return self._admitted(self._client.encode, args, kwargs)

    async def add_lora(self, lora_request: Any) -> Any:
        """As the client's, for an adapter whose files can be served.

        Raises:
            AdapterRefused, AdapterSlotsExhausted: they cannot.
        """
        return await self.loras.add(lora_request)

    async def without_lora(self, lora_int_id: int) -> None:
        """Takes no request for this adapter any more, and waits until the engine is done with those under way."""
        self.loras.remove(lora_int_id)
        while any(stream.lora_int_id == lora_int_id for stream in self._streams):
            await asyncio.sleep(_SWEEP_S / 5)

    def _admitted(
        self, method: Callable[..., AsyncGenerator[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> "Outputs":
        record = request_record.current() if self.limits is not None else None
        if record is not None:
            record.submitted()
            if self.is_traced:
                kwargs["trace_headers"] = kwargs.get("trace_headers") or record.trace_headers()
        if self.limits is not None and len(self._streams) >= self.limits.num_in_flight:
            raise self._refusal(str(overload.refused(self._model_name)), HTTPStatus.SERVICE_UNAVAILABLE)
        known = None
        if (lora_request := kwargs.get("lora_request")) is not None:
            try:
                known = self.loras.usable(lora_request)
            except AdapterRefused as error:
                raise self._refusal(str(error), error.http_status) from None
            kwargs["lora_request"] = known.request
            if record is not None:
                record.adapter = known.name
        return Outputs(method(*args, **kwargs), self, known, record)

    def begin(self, stream: "Outputs") -> None:
        """`stream` is in flight from now on."""
        self._streams.add(stream)
        if self._sweeper is None:
            loop = asyncio.get_running_loop()
            self._progress_at = loop.time()
            self._sweeper = loop.call_later(_SWEEP_S, self._sweep)

    def end(self, stream: "Outputs") -> None:
        """`stream` is in flight no more."""
        self._streams.discard(stream)

    def refused(self, text: str, status: HTTPStatus) -> Exception:
        """The exception that all routes understand."""
        return self._refusal(text, status)

    def _sweep(self) -> None:
        """Ends the waits that took too long; runs on while anything is in flight."""
        loop = asyncio.get_running_loop()
        for stream in list(self._streams):
            if stream.is_unused(loop.time()):
                self._streams.discard(stream)
                stream.was_dropped = True
            else:
                stream.expire(loop.time())
        if self.num_outputs != self._num_outputs_seen or not any(stream.is_waiting for stream in self._streams):
            self._num_outputs_seen, self._progress_at = self.num_outputs, loop.time()
        self.loras.slots.admit()
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep) if self._streams else None


class Outputs:
    """The outputs of one request; a class, because a generator that is never started never runs its `finally`.

    Attributes:
        lora_int_id: the engine's number of the adapter it uses; 0 for the base model, and when the engine is done.
        was_dropped: nobody read it for so long that nothing waits for it any more.
    """

    def __init__(
        self, outputs: AsyncGenerator[Any], gate: EngineGate, known: KnownLora | None, record: RequestRecord | None
    ):
        self._outputs = outputs
        self._record = record
        self._gate = gate
        self._limits = gate.limits or _NONE
        self._known = known
        self._loop = asyncio.get_running_loop()
        self._made_at = self._loop.time()
        self._allowed_s = self._limits.first_output_s
        self._deadline: float | None = None
        self._waiting: asyncio.Task[Any] | None = None
        self._is_late = False
        self.was_dropped = False
        self.lora_int_id = known.request.lora_int_id if known is not None else 0
        gate.begin(self)

    def __aiter__(self) -> "Outputs":
        return self

    async def __anext__(self) -> Any:
        is_first = self._waiting is None
        self._waiting = asyncio.current_task()
        self._deadline = self._loop.time() + self._allowed_s
        try:
            if is_first:
                await self._enter()
            output = await self._outputs.__anext__()
        except asyncio.CancelledError:
            self._leave()
            if self._is_late and self._waiting is not None and self._waiting.uncancel() == 0:
                text = (
                    f"no output within {self._allowed_s:g} s; predict_timeout and chunked_read_timeout bound the wait"
                )
                raise self._gate.refused(text, HTTPStatus.GATEWAY_TIMEOUT) from None
            raise
        except BaseException:
            self._leave()
            raise
        self._deadline = None
        self._gate.num_outputs += 1
        if self._record is not None:
            self._note(self._record, output, is_first)
        self._allowed_s = self._limits.gap_s
        if getattr(output, "finished", False):
            # The client may take its time to read the rest; whoever waits for the adapter or its slot need not.
            self._leave_lora()
        return output

    def _note(self, record: RequestRecord, output: Any, is_first: bool) -> None:
        """What the log tells of an output, one of ours (`vllm_steps.py`) or vLLM's: what is new in it, or the whole."""
        if is_first:
            stats = getattr(output, "metrics", None)
            queue_s = stats.scheduled_ts - stats.queued_ts if stats is not None else None
            record.first_output(len(output.prompt_token_ids or ()), queue_s)
        if (chunk := getattr(output, "chunk", None)) is not None:
            record.num_tokens += chunk.num_tokens
        elif type(choices := output.outputs) is list:
            for choice in choices:
                record.num_tokens += len(choice.token_ids)

    async def aclose(self) -> None:
        """Ends the request in the engine."""
        self._gate.end(self)
        try:
            await self._outputs.aclose()
        finally:
            self._leave()

    async def _enter(self) -> None:
        """Takes its place in flight, which the sweep may have taken away, and waits until its adapter can be used."""
        self._gate.begin(self)
        if self._known is not None:
            try:
                if self.was_dropped:
                    self._gate.loras.check_kept(self._known)
                await self._gate.loras.enter(self._known, self._outputs)
            except (AdapterRefused, AdapterSlotsExhausted) as error:
                raise self._gate.refused(str(error), HTTPStatus.FAILED_DEPENDENCY) from None

    def _leave(self) -> None:
        """Gives its place back."""
        self._gate.end(self)
        self._leave_lora()

    def _leave_lora(self) -> None:
        """Gives its slot back: only now, when the engine is done with it, or has heard that it is over."""
        if self._known is not None:
            self._gate.loras.slots.release(self.lora_int_id, self._outputs)
            self._known, self.lora_int_id = None, 0

    @property
    def is_waiting(self) -> bool:
        """Somebody waits for the next output."""
        return self._deadline is not None

    def is_unused(self, now: float) -> bool:
        """Nobody has begun to read, and nobody will."""
        return self._waiting is None and now > self._made_at + _UNUSED_S

    def expire(self, now: float) -> None:
        """Cancels the wait for the next output if it took too long."""
        if self._deadline is not None and now > self._deadline and self._waiting is not None:
            self._deadline = None
            self._is_late = True
            self._waiting.cancel()
