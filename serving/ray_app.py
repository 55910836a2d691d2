# SPDX-License-Identifier: Apache-2.0
"""The server as a Ray Serve application: `serve run serving.ray_app:app demo=true num_replicas=2`.

Ray has the port and starts, watches and replaces the replicas; each is a whole server but for the port, in a process
of Ray's. Ray imports this module by its name; it knows the parts of `lmi serve`, and nothing of how they work.
"""

import asyncio
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Literal

from pydantic import BaseModel, Field
from starlette.types import ASGIApp

from serving import log
from serving.cli import resolved, set_up
from serving.config.host import Host
from serving.config.resolve import ResolvedConfig
from serving.errors import ConfigError, Problem
from serving.ledger import Ledger
from serving.server_process import as_flags
from serving.starting import Starting

logger = logging.getLogger(__name__)

_DEATH_CHECK_S = 0.1
_LAST_ANSWERS_S = 5.0
_END_S = 5.0
"""For the engine's processes, after what was in flight."""
_ADDRESS = ("host", "port", "uds", "inference_address", "management_address", "enable_ssl_refresh")
_NO_EFFECT = {
    "shutdown_delay": "Ray sends no more requests to a replica before it ends it",
    "fail_fast": "Ray replaces a replica whatever its exit code",
}
_SPREADS = ("distributed_executor_backend", "data_parallel_backend")
_GPUS = ("tensor_parallel_size", "pipeline_parallel_size", "prefill_context_parallel_size", "data_parallel_size")


class Args(BaseModel, extra="allow"):
    """What stands behind `serve run serving.ray_app:app`, or under `args:` in a configuration of Ray Serve.

    Every other name is a flag of `lmi serve`, with dashes or underscores.

    Attributes:
        model_id: a Hub id or a directory; may come from the flags or the environment as well.
        demo: serve the bundled demo model.
        num_replicas: how many servers there are, or `auto`; one unless this or the next is given.
        autoscaling_config: Ray's, in place of a number.
        max_ongoing_requests: requests that one replica holds, those that wait for its engine included; by default so
            many that it is the server that refuses, as its `job_queue_size` says.
        ray_actor_options: Ray's, for a replica; its GPUs are known already.
    """

    model_id: str | None = None
    demo: bool = False
    num_replicas: int | Literal["auto"] | None = None
    autoscaling_config: dict[str, Any] | None = None
    max_ongoing_requests: int | None = Field(None, gt=0)
    ray_actor_options: dict[str, Any] = {}

    @property
    def argv(self) -> list[str]:
        """The command line of `lmi serve` that means the same."""
        words = [] if self.model_id is None else [self.model_id]
        given = self.model_extra or {}
        flags = {name: str(value).lower() if isinstance(value, bool) else value for name, value in given.items()}
        return [*words, *(["--demo"] if self.demo else []), *as_flags(flags)]


def app(args: Args) -> Any:
    """The application, for `serve run`, `serve deploy` and `serve.run(app(Args(...)))`.

    Raises:
        RuntimeError: the configuration cannot be served, with a line per problem.
    """
    from ray import serve

    with _told():
        config, _ = resolved(args.argv, host=_host())
        options = deployment_options(args, config)
    for warning in without_effect(config):
        logger.warning("%s", warning)
    replica = serve.deployment(serve.ingress()(Replica))
    return replica.options(name="lmi", **options).bind(args.argv)


def deployment_options(args: Args, config: ResolvedConfig) -> dict[str, Any]:
    """Ray's options of the deployment.

    Raises:
        ConfigError: something is asked that Ray has in hand here.
    """
    if problems := _problems(config):
        raise ConfigError(problems)
    values = config.vllm_arguments
    num_gpus = 1
    for name in _GPUS:
        num_gpus *= values.get(name, 1)
    gpus = {"num_gpus": num_gpus} if config.has_devices else {}
    return {
        "num_replicas": args.num_replicas,
        "autoscaling_config": args.autoscaling_config,
        "max_ongoing_requests": args.max_ongoing_requests or 2 * config.limits.num_in_flight,
        "ray_actor_options": gpus | args.ray_actor_options,
        "graceful_shutdown_timeout_s": values.get("shutdown_timeout", 0) + _END_S,
    }


class Replica:
    """One server of several; Ray makes it, asks after its health, and ends it. Its ASGI app is Ray's to call."""

    async def __init__(self, argv: Sequence[str]) -> None:  # type: ignore[misc]  # Ray awaits it
        self._stack = AsyncExitStack()
        log.setup()
        with _told():
            ledger = Ledger()
            config, code = resolved(argv)
            log.setup(is_json=config.logs_json)
            for warning in config.warnings:
                logger.warning("%s", warning)
            setup, vllm_args = set_up(config, code, ledger)

            from serving.run import assembled

            block = assembled(setup, vllm_args, Starting(takes_signals=False), ledger)
            self._assembly, self._front = await self._stack.enter_async_context(block)
        self._stall_timeout_s = config.server.stall_timeout
        self._watch = asyncio.create_task(self._leave_on_death())
        logger.info("where the start's time went: %s", ledger.close())

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return self._front

    async def check_health(self) -> None:
        """Asked by Ray, which replaces a replica that fails; as the route `/ready`.

        Raises:
            RuntimeError: with the reasons.
        """
        if reasons := self._assembly.health.reasons(self._stall_timeout_s):
            raise RuntimeError("; ".join(reasons))

    async def __del__(self) -> None:
        if hasattr(self, "_watch"):
            self._watch.cancel()
        await self._stack.aclose()

    async def _leave_on_death(self) -> None:
        """Ends the process once the engine is gone and those in flight had time to get their errors.

        Until then Ray would send it requests, for nobody fails them faster.
        """
        while not self._assembly.is_dead:
            await asyncio.sleep(_DEATH_CHECK_S)
        logger.critical("the engine process died; its last lines above say why. Exiting.")
        deadline = asyncio.get_running_loop().time() + _LAST_ANSWERS_S
        while self._assembly.num_in_flight and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_DEATH_CHECK_S)
        await asyncio.sleep(_DEATH_CHECK_S)
        os._exit(1)


@contextmanager
def _told() -> Iterator[None]:
    """Says what is wrong in the words of `lmi serve`; Ray carries texts between processes, not our errors."""
    try:
        yield
    except ConfigError as error:
        raise RuntimeError("\n".join(f"lmi: error: {problem}" for problem in error.problems)) from None


def _host() -> Host:
    """The machine of a replica: the one of the cluster that has most GPUs, or this one if there is no cluster yet."""
    import ray

    if not ray.is_initialized():
        return Host.local(os.environ)
    gpus = [int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
    return Host.local(os.environ, max(gpus, default=0))


def _problems(config: ResolvedConfig) -> list[Problem]:
    """What a replica cannot do."""
    found = []
    for name, entry in config.effective.items():
        origin = entry.setting.origin
        if name in _ADDRESS or name.startswith("ssl_"):
            text, remedy = f"{name}: Ray Serve listens, not a replica", "say it in Ray Serve's http_options"
            found.append(Problem("UNSUPPORTED", text, origin, remedy))
        if (name in _SPREADS and entry.setting.text == "ray") or (name == "nnodes" and entry.setting.text != "1"):
            text = f"{name}={entry.setting.text}: a replica is one machine"
            found.append(Problem("UNSUPPORTED", text, origin, "leave it out"))
    if config.port_file is not None:
        found.append(Problem("UNSUPPORTED", "--port-file: Ray Serve listens, not a replica", remedy="leave it out"))
    return found


def without_effect(config: ResolvedConfig) -> list[str]:
    """A sentence for each setting that a replica has no use for, and that does no harm."""
    return [
        f"{name} ({config.effective[name].setting.origin}) has no effect: {reason}"
        for name, reason in _NO_EFFECT.items()
        if name in config.effective
    ]
