# SPDX-License-Identifier: Apache-2.0
"""The proxy around vLLM's engine client that every route goes through, `/v1/*` included.

vLLM's own routes and ours hold this object instead of the client. Whatever must hold for every request belongs here and
nowhere else: what is in flight, how much of that is taken on, how long an output may take, which adapters it may use.
"""

import asyncio
import math
import sys
from collections.abc import AsyncGenerator, Callable
from http import HTTPStatus
from typing import Any
from weakref import WeakSet

from serving.config.limits import Limits
from serving.engine.lora_gate import LoraGate
from serving.errors import AdapterRefused, AdapterSlotsExhausted

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
    """

    def __init__(self, client: Any, model_name: str, refusal: Callable[[str, HTTPStatus], Exception], loras: LoraGate):
        self._client = client
        self._model_name = model_name
        self._refusal = refusal
        self.loras = loras
        self.limits: Limits | None = None
        self._streams: WeakSet[Outputs] = WeakSet()
        self._sweeper: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    @property
    def num_in_flight(self) -> int:
        """Requests handed over and not finished."""
        return len(self._streams)

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
        """Takes no request for this adapter any more, and waits until those under way are answered."""
        self.loras.remove(lora_int_id)
        while any(stream.lora_int_id == lora_int_id for stream in self._streams):
            await asyncio.sleep(_SWEEP_S / 5)

    def _admitted(
        self, method: Callable[..., AsyncGenerator[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> "Outputs":
        if self.limits is not None and len(self._streams) >= self.limits.num_in_flight:
            text = f"Worker queue capacity exceeded for model: {self._model_name}"
            raise self._refusal(text, HTTPStatus.SERVICE_UNAVAILABLE)
        lora_int_id = 0
        if (lora_request := kwargs.get("lora_request")) is not None:
            try:
                kwargs["lora_request"] = self.loras.usable(lora_request)
            except AdapterRefused as error:
                raise self._refusal(str(error), error.http_status) from None
            lora_int_id = lora_request.lora_int_id
        outputs = method(*args, **kwargs)
        stream = Outputs(outputs, self.limits or _NONE, self._refusal, self._streams, self.loras, lora_int_id)
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        return stream

    def _sweep(self) -> None:
        """Ends the waits that took too long; runs on while anything is in flight."""
        loop = asyncio.get_running_loop()
        for stream in list(self._streams):
            if stream.is_unused(loop.time()):
                self._streams.discard(stream)
            else:
                stream.expire(loop.time())
        self.loras.slots.admit()
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep) if self._streams else None


class Outputs:
    """The outputs of one request; a class, because a generator that is never started never runs its `finally`.

    Attributes:
        lora_int_id: the engine's number of the adapter it is for; 0 for the base model.
    """

    def __init__(
        self,
        outputs: AsyncGenerator[Any],
        limits: Limits,
        refusal: Callable[[str, HTTPStatus], Exception],
        in_flight: "WeakSet[Outputs]",
        loras: LoraGate,
        lora_int_id: int,
    ):
        self._outputs = outputs
        self._limits = limits
        self._refusal = refusal
        self._in_flight = in_flight
        self._loop = asyncio.get_running_loop()
        self._made_at = self._loop.time()
        self._allowed_s = limits.first_output_s
        self._deadline: float | None = None
        self._waiting: asyncio.Task[Any] | None = None
        self._is_late = False
        self._loras = loras
        self.lora_int_id = lora_int_id
        in_flight.add(self)

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
                raise self._refusal(text, HTTPStatus.GATEWAY_TIMEOUT) from None
            raise
        except BaseException:
            self._leave()
            raise
        self._deadline = None
        self._allowed_s = self._limits.gap_s
        return output

    async def aclose(self) -> None:
        """Ends the request in the engine."""
        self._in_flight.discard(self)
        try:
            await self._outputs.aclose()
        finally:
            self._leave()

    async def _enter(self) -> None:
        """Takes its place in flight, which the sweep may have taken away, and waits until its adapter can be used."""
        self._in_flight.add(self)
        if self.lora_int_id:
            try:
                await self._loras.enter(self.lora_int_id, self._outputs)
            except (AdapterRefused, AdapterSlotsExhausted) as error:
                raise self._refusal(str(error), HTTPStatus.FAILED_DEPENDENCY) from None

    def _leave(self) -> None:
        """Gives its place back; its slot only now, when the engine has heard that the request is over."""
        self._in_flight.discard(self)
        if self.lora_int_id:
            self._loras.slots.release(self.lora_int_id, self._outputs)

    def is_unused(self, now: float) -> bool:
        """Nobody has begun to read, and nobody will."""
        return self._waiting is None and now > self._made_at + _UNUSED_S

    def expire(self, now: float) -> None:
        """Cancels the wait for the next output if it took too long."""
        if self._deadline is not None and now > self._deadline and self._waiting is not None:
            self._deadline = None
            self._is_late = True
            self._waiting.cancel()
