"""The agent at work: answers requests, logs episodes, and learns from them beside the answer's way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from evolving_agent.chat.endpoint import Endpoints, ModelEndpoint, ModelError
from evolving_agent.memory.graph import Memory, MemoryUnavailableError
from evolving_agent.memory.learning import learn_from
from evolving_agent.runtime.configuration import Configuration
from evolving_agent.runtime.conversation import InvalidMessagesError, parse_conversation
from evolving_agent.runtime.feedback import Feedback
from evolving_agent.runtime.loop import AgentRun
from evolving_agent.runtime.metrics import UNKNOWN_TOOL, Metrics
from evolving_agent.runtime.reflection import Reflected, now, reflection_fields, reflection_record
from evolving_agent.runtime.reflector import Reflector
from evolving_agent.runtime.shadow import Shadow
from evolving_agent.runtime.tools.invocation import RunScope, ToolError
from evolving_agent.runtime.tools.toolbox import Toolbox
from evolving_agent.runtime.trace import RunResult, RunTrace
from evolving_agent.runtime.traffic import ACTIVE, Arm, answering_arm, shadow_arm
from evolving_agent.runtime.wire import AnswerHead, ChatRequest, RefusedError, RequestError
from evolving_agent.store.experience_log import ExperienceLog, new_episode_id
from evolving_agent.store.records import Episode, ReflectionRecord, ReflectionSource

logger = logging.getLogger(__name__)

_STATUS_OF_PERMANENT = {400: 400, 413: 400, 422: 400}  # the request itself was refused: the client's to mend


@dataclass(frozen=True)
class Caller:
    """What a request's headers say."""

    session: str | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Work:
    """One request on its way to an answer."""

    head: AnswerHead
    arm: Arm
    request: ChatRequest
    caller: Caller
    run: AgentRun
    endpoint: ModelEndpoint
    started: float


class AgentService:
    def __init__(
        self,
        *,
        agent: str,
        pod: str,
        configuration: Configuration,
        endpoints: Endpoints,
        toolbox: Toolbox,
        memory: Memory | None,
        log: ExperienceLog,
        metrics: Metrics,
        request_seconds: float,
    ) -> None:
        """Endpoints, toolbox, memory and log are the caller's to close, after the service."""
        self.agent = agent
        self.configuration = configuration
        self._pod = pod
        self._endpoints = endpoints
        self._toolbox = toolbox
        self._memory = memory
        self._log = log
        self._metrics = metrics
        self._request_seconds = request_seconds
        self._reflector = Reflector(self._keep_reflection, metrics)
        self._shadow = Shadow(self._run_shadow, metrics)
        self._reflector.start()

    async def close(self, seconds: float) -> None:
        """Lets background work finish, at most `seconds`."""
        await asyncio.gather(self._shadow.close(seconds), self._reflector.close(seconds))

    def accept(self, request: ChatRequest, caller: Caller) -> Work:
        """Decides who answers. Raises RefusedError."""
        episode = new_episode_id(self._pod)
        arm = answering_arm(self.configuration, caller.session or episode)
        config = arm.config
        scope = RunScope(
            trace=RunTrace(),
            # a dry run is compared with evaluations, which have no memory
            memory=None if caller.dry_run else self._memory,
            dry_run=caller.dry_run,
            episode=episode,
        )
        endpoint = self._endpoints.at(config.model.base_url)
        try:
            if not caller.dry_run:
                query = parse_conversation(request.messages).query
                scope = self._with_reflections(scope, arm, query)
            run = AgentRun(
                config,
                request.messages,
                endpoint,
                self._toolbox,
                scope,
                name=self.agent,
                sampling=request.sampling,
            )
        except InvalidMessagesError as error:
            raise RefusedError("invalid", 400, str(error), param=error.param) from error
        head = AnswerHead(episode, config.model.id, config.revision, arm.name)
        return Work(head, arm, request, caller, run, endpoint, time.perf_counter())

    async def answer(self, work: Work) -> RunResult:
        """The whole answer; its episode is in the log when this returns. Raises RequestError."""
        return await self._observed(work, _single(work.run), emit=lambda _: None)

    async def stream(self, work: Work) -> AsyncGenerator[str | RunResult]:
        """Pieces of the answer as they come, the result last, logged by then. Raises RequestError.

        The run is a task of its own: its deadline holds while nobody asks for the next piece, and closing
        the generator (the client went away) ends it.
        """
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        run = asyncio.create_task(self._observed(work, work.run.stream(), pieces.put_nowait))
        run.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            yield await run
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)

    async def feedback(self, feedback: Feedback) -> ReflectionRecord:
        """Keeps a person's word on an answer. Raises RequestError where no such answer is in the log."""
        episode = await self._log.episode(feedback.completion_id)
        if episode is None:
            raise RequestError(
                404,
                f"no answer {feedback.completion_id!r} is in the log; dry runs are never logged",
                code="completion_not_found",
                param="completion_id",
            )
        record = feedback.on(episode)
        await self._keep(record, (episode.revision, episode.model, episode.arm))
        return record

    async def _observed(
        self, work: Work, parts: AsyncGenerator[str | RunResult], emit: Callable[[str], None]
    ) -> RunResult:
        """Passes a run's pieces on; measures, logs and shadows it; errors come out as RequestError."""
        outcome, first = "cancelled", True
        self._metrics.in_flight.inc()
        try:
            async with asyncio.timeout(self._request_seconds), aclosing(parts):
                async for part in parts:
                    if isinstance(part, RunResult):
                        await self._finished(work, part)
                        outcome = "agent_error" if part.error else "ok"
                        return part
                    if first:
                        first = False
                        elapsed = time.perf_counter() - work.started
                        self._metrics.first_token.labels(*work.arm.labels).observe(elapsed)
                    emit(part)
            raise AssertionError("a run ends with its result")
        except ModelError as error:
            outcome = "upstream_error"
            self._metrics.upstream_errors.labels(work.head.model, error.reason).inc()
            await self._failed(work, f"{error.reason}: {error.message}")
            raise _as_request_error(error) from error
        except TimeoutError as error:
            outcome = "timeout"
            message = f"no answer within {self._request_seconds:g} s"
            await self._failed(work, f"Timeout: {message}")
            raise RequestError(504, message, kind="timeout_error", code="timeout") from error
        finally:
            self._metrics.in_flight.dec()
            self._metrics.run_ended(work.arm, outcome, time.perf_counter() - work.started)
            self._count_trace(work.arm, work.run.scope.trace)
            logger.info(
                "answered",
                extra={
                    "completion": work.head.id,
                    "revision": work.head.revision,
                    "arm": work.head.arm,
                    "outcome": outcome,
                    "dry_run": work.caller.dry_run,
                    "seconds": round(time.perf_counter() - work.started, 4),
                },
            )

    async def _finished(self, work: Work, result: RunResult) -> None:
        if work.caller.dry_run:
            return
        episode = self._episode(work, result)
        await self._log.append_episode(episode)
        self._reflector.consider(work.arm, episode, work.endpoint)
        if work.arm.name == ACTIVE and (arm := shadow_arm(self.configuration, episode.id)):
            self._shadow.show(arm, episode)

    async def _failed(self, work: Work, error: str) -> None:
        if not work.caller.dry_run:
            result = RunResult.of(work.run.scope.trace, "", error)
            await self._log.append_episode(self._episode(work, result))

    def _episode(self, work: Work, result: RunResult) -> Episode:
        return Episode(
            id=work.head.id,
            time=now(),
            agent=self.agent,
            revision=work.head.revision,
            model=work.head.model,
            arm=work.head.arm,
            session=work.caller.session,
            messages=work.request.messages,
            seconds=round(time.perf_counter() - work.started, 4),
            **_of_result(result),
        )

    async def _run_shadow(self, arm: Arm, live: Episode) -> None:
        """Answers a live request again with the candidate; its tools that write repeat the live results."""
        started = time.perf_counter()
        scope = RunScope(RunTrace(), self._memory, dry_run=True, replay=tuple(live.tool_calls))
        endpoint = self._endpoints.at(arm.config.model.base_url)
        outcome = "upstream_error"
        try:
            async with asyncio.timeout(self._request_seconds):
                result = await AgentRun(
                    arm.config, live.messages, endpoint, self._toolbox, scope, name=self.agent
                ).result()
            outcome = "agent_error" if result.error else "ok"
        except ModelError as error:
            self._metrics.upstream_errors.labels(arm.config.model.id, error.reason).inc()
            result = RunResult.of(scope.trace, "", f"{error.reason}: {error.message}")
        except TimeoutError:
            outcome = "timeout"
            result = RunResult.of(scope.trace, "", "Timeout: the shadow run took too long")
        seconds = time.perf_counter() - started
        self._metrics.run_ended(arm, outcome, seconds)
        self._count_trace(arm, scope.trace)
        await self._log.append_episode(
            Episode(
                id=new_episode_id(self._pod),
                time=now(),
                agent=self.agent,
                revision=arm.config.revision,
                model=arm.config.model.id,
                arm=arm.name,
                session=live.session,
                messages=live.messages,
                seconds=round(seconds, 4),
                shadow_of=live.id,
                **_of_result(result),
            )
        )

    def _with_reflections(self, scope: RunScope, arm: Arm, query: str) -> RunScope:
        """The scope with a record_reflection tool that writes to the log."""

        async def record(arguments: dict[str, Any]) -> None:
            fields = reflection_fields(arguments)
            if fields is None:
                raise ToolError("a reflection needs a lesson, a score, mistakes or a corrected answer")
            about = Reflected(
                scope.episode, self.agent, arm.config.revision, query, list(scope.trace.tool_calls)
            )
            await self._keep_reflection(arm, reflection_record(about, ReflectionSource.TOOL, fields))

        return RunScope(scope.trace, scope.memory, scope.dry_run, scope.replay, record, scope.episode)

    async def _keep_reflection(self, arm: Arm, record: ReflectionRecord) -> None:
        await self._keep(record, arm.labels)

    async def _keep(self, record: ReflectionRecord, labels: tuple[str, str, str]) -> None:
        """Into the log, and what it teaches into memory."""
        await self._log.append_reflection(record)
        outcome = "parsed" if record.unparsed is None else "unparsed"
        self._metrics.reflections.labels(*labels, record.source, outcome).inc()
        if record.score is not None:
            self._metrics.reflection_score.labels(*labels, record.source).observe(record.score)
        if self._memory is None or not (record.lesson or record.correction):
            return
        try:
            await asyncio.to_thread(learn_from, self._memory, record)
            self._metrics.memory_writes.labels("ok").inc()
        except MemoryUnavailableError as error:
            self._metrics.memory_writes.labels("failed").inc()
            logger.error("a lesson is in the log but not in memory: %s", error)

    def _count_trace(self, arm: Arm, trace: RunTrace) -> None:
        labels = arm.labels
        self._metrics.tokens.labels(*labels, "input").inc(trace.input_tokens)
        self._metrics.tokens.labels(*labels, "output").inc(trace.output_tokens)
        for call in trace.tool_calls:
            outcome = "stubbed" if call.stubbed else "error" if call.error else "ok"
            tool = UNKNOWN_TOOL if call.name in trace.unknown_tools else call.name
            self._metrics.tool_calls.labels(*labels, tool, outcome).inc()
        for specialist in trace.agent_path[1:]:
            self._metrics.handoffs.labels(*labels, specialist).inc()
        if trace.recall is not None:
            self._metrics.memory_recalls.labels(trace.recall).inc()


async def _single(run: AgentRun) -> AsyncGenerator[str | RunResult]:
    yield await run.result()


def _of_result(result: RunResult) -> dict[str, Any]:
    """The fields of an episode that a run's result fills."""
    return {
        "system": result.system,
        "instructions": result.instructions,
        "tools": list(result.tools),
        "tool_calls": list(result.tool_calls),
        "agent_path": list(result.agent_path),
        "answer": result.answer,
        "error": result.error,
        "input_tokens": result.input_tokens,
        "output_tokens": result.output_tokens,
    }


def _as_request_error(error: ModelError) -> RequestError:
    """What the client of the agent is told: the endpoint's key and name are not the client's to mend."""
    if error.status == 429:
        return RequestError(429, error.message, kind="rate_limit_error", code=error.reason)
    if error.status in _STATUS_OF_PERMANENT:
        return RequestError(_STATUS_OF_PERMANENT[error.status], error.message, code=error.reason)
    status = 502 if error.permanent else 503
    return RequestError(status, error.message, kind="upstream_error", code=error.reason)
