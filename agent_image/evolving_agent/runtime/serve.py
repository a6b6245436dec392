"""`evolving-agent serve`: brings a serving pod up, and takes it down without a lost request."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress

import uvicorn

from evolving_agent.chat.endpoint import Endpoints, ModelError, ModelErrorReason
from evolving_agent.contract import env
from evolving_agent.contract.config import MemoryType
from evolving_agent.contract.report import MAX_MESSAGE_CHARS, Outcome, ServeReport, encode_report
from evolving_agent.runtime.app import PodState, build_app
from evolving_agent.runtime.configuration import Configuration, ConfigurationError, ConfigurationFile
from evolving_agent.runtime.conversations import Conversations
from evolving_agent.runtime.logs import configure_logging
from evolving_agent.runtime.metrics import Metrics
from evolving_agent.runtime.remembering import UnusableURIError, open_memory
from evolving_agent.runtime.service import AgentService
from evolving_agent.runtime.settings import Settings, SettingsError
from evolving_agent.runtime.tools.toolbox import Toolbox
from evolving_agent.runtime.tracing import start_tracing, traced
from evolving_agent.runtime.traffic import Arm, starting_fallback_arm
from evolving_agent.store.experience_log import ExperienceLog

PROBE_SECONDS = 2.0  # between two questions to a model that does not answer yet

logger = logging.getLogger(__name__)


class StartError(Exception):
    """The pod cannot serve; the operator reads the reason from its termination message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def main() -> int:
    """The process's exit status: 0 after a drained shutdown, 1 when the pod could not serve."""
    configure_logging()
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        logger.error("%s", error)
        return env.EXIT_RETRY
    return asyncio.run(serve(settings))


async def serve(settings: Settings) -> int:
    """Serves until SIGTERM or SIGINT. The HTTP server is up from the start: /readyz says what is awaited."""
    metrics = Metrics()
    state = PodState(metrics)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    app = build_app(state)
    server = _Server(
        uvicorn.Config(
            traced(app) if settings.is_traced else app,
            host="0.0.0.0",  # noqa: S104 (a pod's port is reached through its Service)
            port=settings.port,
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=75,  # longer than clients keep idle connections: they close first
        )
    )
    serving = asyncio.create_task(server.serve())
    async with AsyncExitStack() as resources:
        if settings.is_traced:
            resources.push_async_callback(asyncio.to_thread, start_tracing(settings.agent, settings.pod))
        starting = asyncio.create_task(start_service(settings, state, resources))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((starting, stopped, serving), return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
                # what is loaded by now stays; to look through it for garbage would hold all requests up
                # for 150 ms every few thousand of them
                gc.freeze()
                await asyncio.wait((stopped, serving), return_when=asyncio.FIRST_COMPLETED)
            status = env.EXIT_OK
        except StartError as error:
            _report(settings, error)
            status = env.EXIT_RETRY
        finally:
            for task in (starting, stopped):
                task.cancel()
            await asyncio.gather(starting, stopped, return_exceptions=True)
        if not serving.done():
            await _drain(settings, state, server, serving)
    await serving
    logger.info("stopped")
    return status


async def _drain(
    settings: Settings, state: PodState, server: uvicorn.Server, serving: asyncio.Task[None]
) -> None:
    """Requests that still come in are answered; then the port is closed and what runs is finished."""
    state.draining = True
    state.metrics.ready.set(0)
    if state.service is not None:
        logger.info("draining")
        await asyncio.wait((serving,), timeout=settings.drain_accept_seconds)
        # no run outlasts its deadline, but a client that reads slowly might: the grace period ends for all
        deadline = state.service.configuration.own.limits.request_timeout_seconds
        server.config.timeout_graceful_shutdown = deadline + 5
    server.should_exit = True
    await asyncio.wait((serving,))


async def start_service(settings: Settings, state: PodState, resources: AsyncExitStack) -> None:
    """Everything that a pod needs to answer; what it opens is closed with `resources`. Raises StartError."""
    state.waiting_for = ("WaitingForConfiguration", f"waiting for {settings.config_file}")
    file = ConfigurationFile(settings.config_file, settings.config_hash)
    try:
        configuration = await file.wait(settings.config_wait_seconds)
    except ConfigurationError as error:
        raise StartError("ConfigurationMissing", str(error)) from error
    config = configuration.own
    state.max_request_bytes = config.limits.max_request_bytes
    endpoints = await resources.enter_async_context(Endpoints(settings.api_key))
    missing = await _wait_for_model(settings, configuration, endpoints, state)
    log = ExperienceLog(settings.store, settings.pod, state.metrics)
    resources.push_async_callback(log.close)
    toolbox = await resources.enter_async_context(
        Toolbox(observe=lambda tool, usable: state.metrics.tool_usable.labels(tool).set(usable))
    )
    await toolbox.open(config)
    try:
        remembering = await open_memory(config, settings, state.metrics, resources)
    except UnusableURIError as error:
        raise StartError("InvalidMemoryURI", str(error)) from error
    service = AgentService(
        agent=settings.agent,
        pod=settings.pod,
        configuration=configuration,
        endpoints=endpoints,
        toolbox=toolbox,
        memory=remembering.memory,
        memory_problems=remembering.problems,
        conversations=Conversations(
            remembering.sessions,
            config.sessions,
            state.metrics,
            broken=remembering.sessions is None and config.memory is not MemoryType.DISABLED,
        ),
        log=log,
        metrics=state.metrics,
        captures_content=settings.captures_content,
    )
    resources.push_async_callback(service.close, settings.drain_work_seconds)
    if missing is not None:
        service.begin_without_model(*missing)
    await resources.enter_async_context(_following(file, settings, service, state.metrics))
    state.metrics.info.labels(settings.agent, config.revision, config.model.id, settings.config_hash).set(1)
    state.metrics.ready.set(1)
    state.service = service
    logger.info("ready", extra={"revision": config.revision, "model": config.model.id})


async def _wait_for_model(
    settings: Settings, configuration: Configuration, endpoints: Endpoints, state: PodState
) -> tuple[Arm, str] | None:
    """Returns when the model has answered once or, where it is gone and the pod may start all the same,
    when another has: who answers instead, and why. Raises StartError when none does in time.
    """
    model, instead = configuration.own.model, starting_fallback_arm(configuration)
    latest = f"{model.base_url} (model {model.id!r}) did not answer"
    reason = ModelErrorReason.UNREACHABLE
    state.waiting_for = ("WaitingForModel", f"waiting for {model.id} at {model.base_url}")
    with suppress(TimeoutError):
        async with asyncio.timeout(settings.model_wait_seconds):
            while True:
                try:
                    await endpoints.of(model).probe(model.id, model.api)
                    return None
                except ModelError as error:
                    if error.reason is ModelErrorReason.NOT_FOUND and instead is not None:
                        with suppress(ModelError):
                            other = instead.config.model
                            await endpoints.of(other).probe(other.id, other.api)
                            return instead, error.message
                    reason, latest = error.reason, error.message
                    state.waiting_for = (reason, latest)
                    logger.warning("the model does not answer yet: %s", error)
                    if reason is ModelErrorReason.UNAUTHORIZED:
                        break  # the key is in this pod's environment: only a new pod has another
                await asyncio.sleep(PROBE_SECONDS)
    raise StartError(reason, f"{latest} (waited {settings.model_wait_seconds:g} s at most)")


@asynccontextmanager
async def _following(
    file: ConfigurationFile, settings: Settings, service: AgentService, metrics: Metrics
) -> AsyncIterator[None]:
    """Keeps the service's view of the traffic shares up to date."""
    metrics.config_valid.set(1)

    def changed(configuration: Configuration) -> None:
        service.reconfigure(configuration)
        metrics.config_valid.set(1)
        metrics.config_reloads.labels("applied").inc()

    def failed() -> None:
        metrics.config_valid.set(0)
        metrics.config_reloads.labels("failed").inc()

    task = asyncio.create_task(
        file.follow(service.configuration, settings.config_poll_seconds, changed, failed)
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _report(settings: Settings, error: StartError) -> None:
    """Into the termination message, where the operator finds it, and into the log."""
    logger.error("cannot serve: %s: %s", error.reason, error)
    report = ServeReport(
        run_id=settings.pod,
        outcome=Outcome.FAILED,
        reason=error.reason,
        message=str(error)[:MAX_MESSAGE_CHARS],
    )
    try:
        settings.termination_log.write_bytes(encode_report(report))
    except OSError as problem:
        logger.error("cannot write the termination message %s: %s", settings.termination_log, problem)


class _Server(uvicorn.Server):
    """Leaves the signals alone: draining comes before the server's own shutdown."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
