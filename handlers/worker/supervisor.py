# SPDX-License-Identifier: Apache-2.0
"""Keeps one worker process running: starts it, makes the start-up call, starts it again when it dies, replaces it.

Used by `handlers/custom.py`, which decides what a failure means for a request.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from handlers.worker.inference_tasks import Infer, InferenceTasks
from handlers.worker.process import Answer, CallFailed, CallTimedOut, LoadError, WorkerDied, WorkerProcess, WorkerSpec
from handlers.worker.protocol import Nothing, Reply, Start

logger = logging.getLogger(__name__)

_ANSWERS_S = 5.0
"""A worker that has not answered so long after a call was given up is killed."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_CLOSE_CHECK_S = 0.05
_OUT_OF_MEMORY = 507


class WorkerDown(Exception):
    """No worker is up right now; one is being started."""


@dataclass(frozen=True, slots=True)
class StartUp:
    """How the start-up call, the one with the empty input, ended.

    Attributes:
        kind: `content` for an answer, `nothing` for None, `refused` for an answer from 300, `memory`, `raised`.
        text: what went wrong, if something did.
        traceback: the user's, if there is one.
    """

    kind: Literal["content", "nothing", "refused", "memory", "raised"]
    text: str = ""
    traceback: str = ""

    @property
    def is_refusal(self) -> bool:
        """The handler says that it cannot work."""
        return self.kind in ("refused", "memory")


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """One request in the worker's words: see `protocol.Call`."""

    properties: dict[str, str]
    headers: list[str]
    content: list[tuple[str, bytes]]
    request_id: str


class Supervisor:
    """One worker, replaced whenever it has to be.

    Args:
        spec: how to start it.
        properties: of the start-up call.
        infer: answers the worker's own requests to the default handler.
        on_death: told of each unexpected end.
        start_s: seconds in which a worker must be loaded and have answered the start-up call.
        answer_s: seconds until the first byte of an answer.

    Attributes:
        num_deaths: unexpected ends so far.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        properties: Mapping[str, str],
        infer: Infer,
        on_death: Callable[[], None] = lambda: None,
        start_s: float | None = None,
        answer_s: float | None = None,
    ):
        self._spec = spec
        self._properties = dict(properties)
        self._infer = infer
        self._on_death = on_death
        self._start_s = start_s
        self._answer_s = answer_s
        self._retiring: set[WorkerProcess] = set()
        self._worker: WorkerProcess | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._checks: set[asyncio.Task[None]] = set()
        self._num_in_a_row = 0
        self._closing = asyncio.Event()
        self._fresh: WorkerProcess | None = None
        self.num_deaths = 0

    @property
    def start_message(self) -> Start:
        """What is loaded."""
        return self._spec.start

    @property
    def is_up(self) -> bool:
        """A worker takes calls."""
        return self._worker is not None and not self._worker.died.done()

    @property
    def pid(self) -> int | None:
        """Of the worker, while one is up."""
        return self._worker.pid if self._worker is not None and self.is_up else None

    async def start(self) -> StartUp:
        """Starts the first worker and makes the start-up call.

        Raises:
            LoadError: the module does not load.
            WorkerDied: the start-up call ended the process.
        """
        self._worker, outcome = await self._started()
        self._keep(self._worker)
        return outcome

    async def reload(self, start: Start) -> StartUp:
        """Replaces the worker by one that runs the file as it is now; the old one finishes what it has.

        Raises:
            LoadError, WorkerDied: the new one does not start, or refuses to work; the old one stays.
        """
        before, self._spec = self._spec, replace(self._spec, start=start)
        try:
            return await self._replace()
        except BaseException:
            self._spec = before
            raise

    async def _replace(self) -> StartUp:
        fresh, outcome = await self._started()
        if outcome.is_refusal:
            await fresh.close()
            raise LoadError(outcome.text, outcome.traceback)
        old, self._worker = self._worker, fresh
        if self._keeper is not None:
            self._keeper.cancel()
        self._num_in_a_row = 0
        self._keep(fresh)
        if old is not None and not old.died.done():
            self._retiring.add(old)
            self._in_background(self._retire(old))
        return outcome

    async def _retire(self, worker: WorkerProcess) -> None:
        """Ends a worker once its last call is over."""
        await worker.idle()
        await worker.close()
        self._retiring.discard(worker)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    async def call(self, function: str, request: WorkerRequest) -> tuple[WorkerProcess, int, Answer]:
        """The worker that answered, the call's id and its answer.

        Raises:
            WorkerDown: no worker is up.
            CallFailed, CallTimedOut, WorkerDied: as `WorkerProcess.call`.
        """
        worker = self._worker
        if worker is None or worker.died.done():
            raise WorkerDown
        try:
            call_id, answer = await worker.call(
                function, request.properties, request.headers, request.content, request.request_id, self._answer_s
            )
        except CallTimedOut as late:
            self.suspect(worker, late.call_id)
            raise
        self._num_in_a_row = 0
        return worker, call_id, answer

    def suspect(self, worker: WorkerProcess, call_id: int) -> None:
        """A call was given up because it took too long: a worker that cannot take others soon is killed."""
        if not worker.died.done():
            self._in_background(_kill_unless_responsive(worker, call_id))

    @property
    def is_backed_up(self) -> bool:
        """The worker has not read for so long that it should get no more."""
        return self._worker is not None and self._worker.is_backed_up

    async def stop(self) -> None:
        """Ends the worker and starts none again, until `reload`."""
        if self._keeper is not None:
            self._keeper.cancel()
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.close()

    async def close(self) -> None:
        """Ends the worker, and one that is being started."""
        self._closing.set()
        for task in self._checks:
            task.cancel()
        for worker in (self._worker, *self._retiring):
            if worker is not None and not worker.died.done():
                await worker.close()
        while self._keeper is not None and not self._keeper.done():
            if self._fresh is not None:
                self._fresh.kill()
            await asyncio.wait((self._keeper,), timeout=_CLOSE_CHECK_S)

    async def _started(self) -> tuple[WorkerProcess, StartUp]:
        inferences = InferenceTasks(self._infer)
        worker = inferences.worker = WorkerProcess(self._spec, inferences.receive)
        self._fresh = worker
        worker.died.add_done_callback(lambda _: inferences.cancel_all())
        try:
            async with asyncio.timeout(self._start_s):
                await worker.start()
                try:
                    return worker, await self._start_up_call(worker)
                except BaseException:
                    await worker.close()
                    raise
        except TimeoutError:
            raise LoadError(
                f"the start-up call did not end within {self._start_s:g} s; option.model_loading_timeout bounds it"
            ) from None

    async def _start_up_call(self, worker: WorkerProcess) -> StartUp:
        properties = self._properties
        try:
            call_id, answer = await worker.call(self._spec.start.handler, properties, [], [], "")
        except CallFailed as failure:
            kind: Literal["memory", "raised"] = "memory" if failure.reason == "memory" else "raised"
            return StartUp(kind, str(failure), failure.traceback)
        if isinstance(answer, Nothing):
            return StartUp("nothing")
        worker.drop(call_id)
        worker.cancel(call_id)
        if answer.status >= 300:
            text = answer.message if isinstance(answer, Reply) else f"status {answer.status}"
            kind_of_refusal: Literal["memory", "refused"] = "memory" if answer.status == _OUT_OF_MEMORY else "refused"
            return StartUp(kind_of_refusal, f"Failed to initialize model: {text}")
        return StartUp("content")

    def _keep(self, worker: WorkerProcess) -> None:
        self._keeper = asyncio.get_running_loop().create_task(self._restart_when_dead(worker))

    async def _restart_when_dead(self, worker: WorkerProcess) -> None:
        """Watches one worker after the other."""
        while not self._closing.is_set():
            code = await asyncio.shield(worker.died)
            if self._closing.is_set():
                return
            self._count_death(f"worker exited with code {code}")
            while not self.is_up:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), self._wait_s())
                if self._closing.is_set():
                    return
                try:
                    worker, outcome = await self._started()
                except (LoadError, WorkerDied) as error:
                    self._count_death(str(error))
                    continue
                if outcome.is_refusal:
                    await worker.close()
                    self._count_death(outcome.text)
                    continue
                if outcome.text:
                    logger.warning("the handler's start-up call failed: %s", outcome.text)
                self._worker = worker
                logger.info("the handler's worker runs again, process %d", worker.pid)
        await worker.close()

    def _count_death(self, text: str) -> None:
        self.num_deaths += 1
        self._num_in_a_row += 1
        logger.error("custom handler: %s; it is started again", text)
        self._on_death()

    def _wait_s(self) -> float:
        """None the first time, then longer and longer until a call is answered."""
        if self._num_in_a_row <= 1:
            return 0.0
        return float(min(_FIRST_WAIT_S * 2 ** (self._num_in_a_row - 2), _LONGEST_WAIT_S))


async def _kill_unless_responsive(worker: WorkerProcess, call_id: int) -> None:
    if not await worker.is_responsive(call_id, _ANSWERS_S):
        logger.error("custom handler: the worker has not answered for %g s and is killed", _ANSWERS_S)
        worker.kill()
