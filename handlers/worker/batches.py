# SPDX-License-Identifier: Apache-2.0
"""LMI's dynamic batching: requests that come at the same time become one call of the user's function.

Used by `handlers/custom.py` where `batch_size` asks for it; the function finds the items with `Input.get_batches`.
"""

import asyncio

from handlers.worker.process import Answer, WorkerProcess
from handlers.worker.protocol import Nothing, Reply
from handlers.worker.supervisor import Supervisor, WorkerRequest
from serving.errors import BatchMismatch

Called = tuple[WorkerProcess, int, Answer]


class Batches:
    """Collects calls for at most `delay_s` seconds, or until there are `size` of them.

    Args:
        supervisor: makes the calls.
        size: most requests of one call.
        delay_s: how long the first one waits for others.
    """

    def __init__(self, supervisor: Supervisor, size: int, delay_s: float):
        self._supervisor = supervisor
        self._size = size
        self._delay_s = delay_s
        self._waiting: list[tuple[WorkerRequest, asyncio.Future[Called]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def call(self, function: str, request: WorkerRequest) -> Called:
        """As `Supervisor.call`, together with others.

        Raises:
            BatchMismatch: the function did not answer once per request.
            Exception: what the call of all of them raised.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Called] = loop.create_future()
        self._waiting.append((request, future))
        if len(self._waiting) >= self._size:
            self._begin(function)
        elif self._timer is None:
            self._timer = loop.call_later(self._delay_s, self._begin, function)
        return await future

    def _begin(self, function: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = [one for one in self._waiting if not one[1].done()], []
        if batch:
            task = asyncio.get_running_loop().create_task(self._run(function, batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, function: str, batch: list[tuple[WorkerRequest, "asyncio.Future[Called]"]]) -> None:
        requests = [request for request, _ in batch]
        try:
            worker, call_id, answer = await self._supervisor.call(function, _together(requests))
            if len(batch) > 1 or batch[0][1].done():
                worker.drop(call_id)
            if len(batch) > 1 and isinstance(answer, Reply) and answer.has_finalizer:
                worker.cancel(call_id)
            results = _each(answer, len(batch))
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result((worker, call_id, result))


def _together(requests: list[WorkerRequest]) -> WorkerRequest:
    """One request of many; one alone stays as it is."""
    if len(requests) == 1:
        return requests[0]
    properties = {"batch_size": str(len(requests)), "handler": requests[0].properties["handler"]}
    content = []
    for number, request in enumerate(requests):
        prefix = f"batch_{number:03d}."
        properties |= {f"{prefix}{name}": text for name, text in request.properties.items()}
        content += [(f"{prefix}{key}", data) for key, data in request.content]
    return WorkerRequest(properties, [], content, ",".join(request.request_id for request in requests))


def _each(answer: Answer, count: int) -> list[Answer]:
    """The answer of each request.

    Raises:
        BatchMismatch: there are more or fewer.
    """
    if isinstance(answer, Nothing) or count == 1 or (isinstance(answer, Reply) and answer.status >= 300):
        return [answer] * count
    parts = answer.parts if isinstance(answer, Reply) else []
    if not isinstance(answer, Reply) or len(parts) != count:
        raise BatchMismatch(count, len(parts))
    return [Reply(answer.id, answer.status, answer.message, answer.properties, part, False, []) for part in parts]
