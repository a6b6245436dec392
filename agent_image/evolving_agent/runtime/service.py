"""The agent at work: answers requests, logs episodes, and learns from them beside the answer's way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from evolving_agent.chat.endpoint import Endpoints, ModelEndpoint, ModelError, ModelErrorReason
from evolving_agent.contract.served import Problem, ProblemReason, ServedCounts
from evolving_agent.memory.errors import MemoryUnavailableError
from evolving_agent.memory.graph import Memory
from evolving_agent.memory.learning import learn_from
from evolving_agent.memory.sessions import estimated_tokens
from evolving_agent.runtime.admission import RETRY_AFTER_SECONDS, Admission, BusyError
from evolving_agent.runtime.asked import Asked
from evolving_agent.runtime.configuration import Configuration
from evolving_agent.runtime.conversation import Conversation, InvalidMessagesError, parse_conversation
from evolving_agent.runtime.conversations import Conversations, Past
from evolving_agent.runtime.errors import RefusedError, RequestError, of_model
from evolving_agent.runtime.fallback import MissingModels
from evolving_agent.runtime.feedback import Feedback
from evolving_agent.runtime.loop import AgentRun
from evolving_agent.runtime.metrics import UNKNOWN_TOOL, Metrics
from evolving_agent.runtime.question import Question
from evolving_agent.runtime.reflection import Reflected, reflection_fields, reflection_record
from evolving_agent.runtime.reflector import Reflector
from evolving_agent.runtime.sampling import UNASKED
from evolving_agent.runtime.served import ServedTally
from evolving_agent.runtime.shadow import Shadow
from evolving_agent.runtime.team import Teams
from evolving_agent.runtime.tools.invocation import RunScope, ToolError
from evolving_agent.runtime.tools.toolbox import Toolbox
from evolving_agent.runtime.trace import RunResult, RunTrace
from evolving_agent.runtime.tracing import agent_span, content
from evolving_agent.runtime.traffic import ACTIVE, Arm, answering_arm, fallback_arm, own_arm, shadow_arm
from evolving_agent.runtime.wire import AnswerHead
from evolving_agent.store.durable import StoreUnavailableError
from evolving_agent.store.experience_log import ExperienceLog, new_episode_id
from evolving_agent.store.records import Episode, ReflectionRecord, ReflectionSource, utc_now

logger = logging.getLogger(__name__)

# What the operator reads of problems, at most.
_MAX_TOLD = 8
_MAX_TOLD_CHARS = 900

Ask = Callable[[AgentRun], AsyncGenerator[str | RunResult]]  # whole, or in pieces


@dataclass
class Work:
    """One request on its way to an answer. Who answers changes where the model turns out to be gone."""

    head: AnswerHead
    arm: Arm
    question: Question
    past: Past
    messages: list[dict[str, Any]]  # all that is answered, the past included
    conversation: Conversation  # the same, as the agent loop takes it
    run: AgentRun
    endpoint: ModelEndpoint
    started: float  # time.monotonic()
    deadline: float


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
        memory_problems: Callable[[], list[str]] = list,
        conversations: Conversations,
        log: ExperienceLog,
        metrics: Metrics,
        captures_content: bool = False,
    ) -> None:
        """Endpoints, toolbox, memory, conversations and log are the caller's to close, after the service."""
        self.agent = agent
        self.configuration = configuration
        self.served = ServedTally(configuration.traffic)
        self._pod = pod
        self._endpoints = endpoints
        self._toolbox = toolbox
        self._teams = Teams(toolbox, agent)
        self._memory = memory
        self._memory_problems = memory_problems
        self.conversations = conversations
        self._log = log
        self._captures_content = captures_content
        self._metrics = metrics
        self._limits = limits = configuration.own.limits
        self._admission = Admission(limits.max_concurrent_requests, limits.max_waiting_requests)
        self._missing = MissingModels(metrics)
        self._reflector = Reflector(self._keep_reflection, metrics, toolbox.specialist_endpoints)
        self._shadow = Shadow(self._run_shadow, metrics)
        self._reflector.start()

    def begin_without_model(self, instead: Arm, why: str) -> None:
        """The pod has started although its model is gone: `instead` answers."""
        self._missing.found_missing(own_arm(self.configuration), instead, why)

    def reconfigure(self, configuration: Configuration) -> None:
        """What the file says now; requests that are being answered keep what they began with."""
        self.configuration = configuration
        self.served.follow(configuration.traffic)

    async def close(self, seconds: float) -> None:
        """Lets background work finish, at most `seconds`."""
        await asyncio.gather(self._shadow.close(seconds), self._reflector.close(seconds))

    @property
    def problems(self) -> list[Problem]:
        """What is wrong although requests are answered."""
        found = (
            (ProblemReason.MODEL_GONE, self._missing.problems),
            (ProblemReason.EXPERIENCE_NOT_STORED, self._log.problems),
            (ProblemReason.TOOL_UNAVAILABLE, self._toolbox.problems),
            (ProblemReason.MEMORY_UNAVAILABLE, self._memory_problems()),
        )
        return [Problem(reason=reason, message=message) for reason, messages in found for message in messages]

    def told(self) -> ServedCounts:
        """What the operator asks this pod for."""
        problems = tuple(
            problem.model_copy(update={"message": problem.message[:_MAX_TOLD_CHARS]})
            for problem in self.problems[:_MAX_TOLD]
        )
        return self.served.counts().model_copy(update={"problems": problems})

    async def accept(self, question: Question) -> Work:
        """Decides who answers what. Raises RequestError."""
        started = time.monotonic()
        self._check_length(question)
        past = await self.conversations.past_of(question)
        episode = new_episode_id(self._pod)
        if question.keep and past.session is None:
            past = replace(past, session=episode)  # a chain of responses begins a session of its own
        arm = answering_arm(self.configuration, past.session or episode, past.config)
        await self._refuse_taken_names(arm, question.asked)
        if question.is_kept and past.session is not None and past.config != arm.config_hash:
            await self.conversations.assign(past.session, arm.config_hash)
        question = question.after(past.messages)
        messages = await self.conversations.with_own_work([*past.messages, *question.messages])
        try:
            conversation = parse_conversation(messages)
        except InvalidMessagesError as error:
            raise RefusedError("invalid", 400, str(error), param=error.param) from error
        scope = RunScope(
            trace=RunTrace(),
            # a dry run is compared with evaluations, which have no memory
            memory=None if question.dry_run else self._memory,
            dry_run=question.dry_run,
            episode=episode,
            request_key=question.request_key,
        )
        deadline = started + self._limits.request_timeout_seconds
        run, endpoint = self._run_of(arm, conversation, scope, question, deadline)
        head = AnswerHead(episode, arm.config.model.id, arm.config.revision, arm.name, int(time.time()))
        return Work(head, arm, question, past, messages, conversation, run, endpoint, started, deadline)

    async def answer(self, work: Work) -> RunResult:
        """The whole answer; its episode is in the log when this returns. Raises RequestError."""
        return await self._admitted(work, _single, emit=lambda _: None)

    async def stream(self, work: Work) -> AsyncGenerator[str | RunResult]:
        """Pieces of the answer as they come, the result last, logged by then. Raises RequestError.

        The run is a task of its own: its deadline holds while nobody asks for the next piece, and closing
        the generator (the client went away) ends it.
        """
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        run = asyncio.create_task(self._admitted(work, AgentRun.stream, pieces.put_nowait))
        run.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            yield await run
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)

    async def keep(self, work: Work, result: RunResult, response: dict[str, Any] | None = None) -> None:
        """Keeps an answer that can be continued, before the client learns of it and can do so."""
        if result.work and not work.question.dry_run:
            await self.conversations.keep_work(result)
        if work.question.is_kept:
            await self.conversations.keep(work.question, work.head.id, work.past, result, response)

    async def feedback(self, feedback: Feedback) -> ReflectionRecord:
        """Keeps a person's word on an answer. Raises RequestError where no such answer is in the log."""
        try:
            episode = await self._log.episode(feedback.completion_id)
        except StoreUnavailableError as error:
            logger.error("feedback on another pod's answer cannot be kept now: %s", error)
            message = "the store that holds the answer does not respond; send the feedback again later"
            raise RequestError(503, message, kind="unavailable", code="store_unavailable") from error
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

    def _check_length(self, question: Question) -> None:
        tokens, limit = estimated_tokens(question.messages), self._limits.max_input_tokens
        if question.asked.tools is not None:
            tokens += estimated_tokens(question.asked.tools.definitions)
        if tokens > limit:
            raise RefusedError(
                "too_long",
                400,
                f"{question.field} holds about {tokens} tokens, this agent takes {limit} "
                "(agent.limits.maxInputTokens)",
                code="context_length_exceeded",
                param=question.field,
            )

    def _run_of(
        self, arm: Arm, conversation: Conversation, scope: RunScope, question: Question, deadline: float
    ) -> tuple[AgentRun, ModelEndpoint]:
        if not scope.dry_run:
            scope = self._with_reflections(scope, arm, conversation.query)
        endpoint = self._endpoints.of(arm.config.model)
        asked = question.asked
        run = AgentRun(arm.config, conversation, endpoint, self._teams, scope, asked=asked, deadline=deadline)
        return run, endpoint

    async def _refuse_taken_names(self, arm: Arm, asked: Asked) -> None:
        """Raises RefusedError where a tool of the client has the name of one that the agent has."""
        if asked.tools is not None:
            asked.tools.refuse_names(await self._teams.names(arm.config))

    async def _admitted(self, work: Work, ask: Ask, emit: Callable[[str], None]) -> RunResult:
        try:
            with self._admission.place():
                return await self._traced(work, ask, emit)
        except BusyError as error:
            raise RefusedError(
                "busy",
                503,
                "this pod has as many requests as it takes (agent.limits); another one may be free",
                kind="unavailable",
                code="Busy",
                retry_after=RETRY_AFTER_SECONDS,
            ) from error

    async def _traced(self, work: Work, ask: Ask, emit: Callable[[str], None]) -> RunResult:
        """The run as a span, and its content told where the pod is asked for that."""
        head = work.head
        with agent_span(self.agent, head.model, completion=head.id, session=work.past.session) as span:
            result = await self._observed(work, ask, emit)
            span.used(result.input_tokens, result.output_tokens)
            if self._captures_content:
                span.note(content(work.messages, result.answer))
                said = {"completion": head.id, "messages": work.messages, "answer": result.answer}
                logger.info("said", extra=said)
            return result

    async def _observed(self, work: Work, ask: Ask, emit: Callable[[str], None]) -> RunResult:
        """Passes a run's pieces on; measures, logs and shadows it; errors come out as RequestError."""
        outcome, first = "cancelled", True
        self._metrics.in_flight.inc()
        try:
            async with (
                asyncio.timeout(work.deadline - time.monotonic()),
                self._admission.turn(),
                aclosing(self._parts(work, ask)) as parts,
            ):
                async for part in parts:
                    if isinstance(part, RunResult):
                        await self._finished(work, part)
                        outcome = "agent_error" if part.error else "ok"
                        return part
                    if first:
                        first = False
                        elapsed = time.monotonic() - work.started
                        self._metrics.first_token.labels(*work.arm.labels).observe(elapsed)
                    emit(part)
            raise AssertionError("a run ends with its result")
        except ModelError as error:
            outcome = "upstream_error"
            self._metrics.upstream_errors.labels(work.head.model, error.reason).inc()
            await self._failed(work, f"{error.reason}: {error.message}")
            raise of_model(error) from error
        except TimeoutError as error:
            outcome = "timeout"
            message = f"no answer within {self._limits.request_timeout_seconds} s"
            await self._failed(work, f"Timeout: {message}")
            raise RequestError(504, message, kind="timeout_error", code="timeout") from error
        finally:
            seconds = time.monotonic() - work.started
            self._metrics.in_flight.dec()
            self._metrics.run_ended(work.arm, outcome, seconds)
            if not work.question.dry_run:
                self.served.ended(work.arm, outcome)
            self._count_trace(work.arm, work.run.scope.trace)
            logger.info(
                "answered",
                extra={
                    "completion": work.head.id,
                    "revision": work.head.revision,
                    "arm": work.head.arm,
                    "outcome": outcome,
                    "dry_run": work.question.dry_run,
                    "seconds": round(seconds, 4),
                },
            )

    async def _parts(self, work: Work, ask: Ask) -> AsyncGenerator[str | RunResult]:
        """The run's pieces and result; those of the previous revision's run where the model is gone."""
        try:
            async with aclosing(ask(work.run)) as parts:
                async for part in parts:
                    if isinstance(part, RunResult):
                        self._missing.answered(work.arm)
                    yield part
            return
        except ModelError as error:
            # after its first call a run may have acted: it must not be done again
            begun = work.run.scope.trace.model_calls > 1
            instead = fallback_arm(self.configuration, work.arm)
            if error.reason is not ModelErrorReason.NOT_FOUND or begun or instead is None:
                raise
            self._missing.fell_back(work.arm, instead, error.message)
            if not work.question.dry_run:
                self.served.ended(work.arm, "fell_back")
            self._metrics.upstream_errors.labels(work.head.model, error.reason).inc()
        await self._refuse_taken_names(instead, work.question.asked)
        config = instead.config
        work.arm = instead
        work.head = replace(work.head, model=config.model.id, revision=config.revision, arm=instead.name)
        scope = replace(work.run.scope, trace=RunTrace())
        work.run, work.endpoint = self._run_of(
            instead, work.conversation, scope, work.question, work.deadline
        )
        async with aclosing(ask(work.run)) as parts:
            async for part in parts:
                yield part

    async def _finished(self, work: Work, result: RunResult) -> None:
        if work.question.dry_run:
            return
        episode = self._episode(work, result)
        await self._log.append_episode(episode)
        self._reflector.consider(work.arm, episode, work.endpoint)
        if work.arm.name == ACTIVE and (arm := shadow_arm(self.configuration, episode.id)):
            self._shadow.show(arm, episode, work.question.asked)

    async def _failed(self, work: Work, error: str) -> None:
        if not work.question.dry_run:
            result = RunResult.of(work.run.scope.trace, "", error)
            await self._log.append_episode(self._episode(work, result))

    def _episode(self, work: Work, result: RunResult) -> Episode:
        return Episode(
            id=work.head.id,
            time=utc_now(),
            agent=self.agent,
            revision=work.head.revision,
            model=work.head.model,
            arm=work.head.arm,
            session=work.past.session,
            messages=work.messages,
            seconds=round(time.monotonic() - work.started, 4),
            **_of_asked(work.question.asked),
            **_of_result(result),
        )

    async def _run_shadow(self, arm: Arm, live: Episode, asked: Asked) -> None:
        """Answers a live request again with the candidate; its tools that write repeat the live results.

        It may call the client's tools too: that is in its episode, and goes no further. Raises RefusedError.
        """
        await self._refuse_taken_names(arm, asked)
        asked = replace(asked, sampling=UNASKED)
        started = time.perf_counter()
        scope = RunScope(RunTrace(), self._memory, dry_run=True, replay=tuple(live.tool_calls))
        endpoint = self._endpoints.of(arm.config.model)
        seconds_left = self._limits.request_timeout_seconds
        deadline = time.monotonic() + seconds_left
        outcome = "upstream_error"
        try:
            async with asyncio.timeout(seconds_left):
                conversation = parse_conversation(live.messages)
                result = await AgentRun(
                    arm.config, conversation, endpoint, self._teams, scope, asked=asked, deadline=deadline
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
        self.served.ended(arm, outcome)
        self._count_trace(arm, scope.trace)
        await self._log.append_episode(
            Episode(
                id=new_episode_id(self._pod),
                time=utc_now(),
                agent=self.agent,
                revision=arm.config.revision,
                model=arm.config.model.id,
                arm=arm.name,
                session=live.session,
                messages=live.messages,
                seconds=round(seconds, 4),
                shadow_of=live.id,
                **_of_asked(asked),
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

        return replace(scope, record_reflection=record)

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
            await learn_from(self._memory, record)
            self._metrics.memory_writes.labels("ok").inc()
        except MemoryUnavailableError as error:
            self._metrics.memory_writes.labels("failed").inc()
            logger.error("a lesson is in the log but not in memory: %s", error)

    def _count_trace(self, arm: Arm, trace: RunTrace) -> None:
        labels = arm.labels
        self._metrics.tokens_used(arm, trace.input_tokens, trace.output_tokens)
        for call in trace.tool_calls:
            outcome = "stubbed" if call.stubbed else "error" if call.error else "cut" if call.cut else "ok"
            tool = UNKNOWN_TOOL if call.name in trace.unknown_tools else call.name
            self._metrics.tool_calls.labels(*labels, tool, outcome).inc()
        if trace.client_calls:
            self._metrics.client_tool_calls.labels(*labels).inc(len(trace.client_calls))
        for specialist in trace.agent_path[1:]:
            self._metrics.handoffs.labels(*labels, specialist).inc()
        if trace.recall is not None:
            self._metrics.memory_recalls.labels(trace.recall).inc()


async def _single(run: AgentRun) -> AsyncGenerator[str | RunResult]:
    yield await run.result()


def _of_asked(asked: Asked) -> dict[str, Any]:
    """The fields of an episode that the client's wishes fill."""
    return {
        "client_tools": asked.tools.definitions if asked.tools else [],
        "answer_format": asked.format.of_chat() if asked.format else None,
    }


def _of_result(result: RunResult) -> dict[str, Any]:
    """The fields of an episode that a run's result fills."""
    return {
        "system": result.system,
        "instructions": result.instructions,
        "tools": list(result.tools),
        "tool_calls": list(result.tool_calls),
        "agent_path": list(result.agent_path),
        "answer": result.answer,
        "client_calls": [call.in_message() for call in result.client_calls],
        "error": result.error,
        "input_tokens": result.input_tokens,
        "output_tokens": result.output_tokens,
    }
