"""Reflects upon finished runs in the background: sampled, few at a time, never in an answer's way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from evolving_agent.chat.endpoint import ModelEndpoint, ModelError
from evolving_agent.contract.config import ReflectionMode
from evolving_agent.runtime.metrics import Metrics
from evolving_agent.runtime.reflection import (
    REFLECTION_SCHEMA,
    Reflected,
    parse_reflection,
    reflection_messages,
    reflection_record,
)
from evolving_agent.runtime.specialists import SpecialistEndpoints
from evolving_agent.runtime.tracing import model_span
from evolving_agent.runtime.traffic import Arm, falls_into
from evolving_agent.store.records import Episode, ReflectionRecord, ReflectionSource

CONCURRENCY = 2
MAX_WAITING = 64
DEADLINE_SECONDS = 120.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Work:
    arm: Arm
    episode: Episode
    endpoint: ModelEndpoint


class Reflector:
    """`start` it, `consider` every finished run, `close` it. `record` keeps what comes out."""

    def __init__(
        self,
        record: Callable[[Arm, ReflectionRecord], Awaitable[None]],
        metrics: Metrics,
        endpoints: SpecialistEndpoints,
    ) -> None:
        """`endpoints` are asked where `reflection.model` has one of its own."""
        self._record = record
        self._metrics = metrics
        self._endpoints = endpoints
        self._waiting: asyncio.Queue[_Work] = asyncio.Queue(MAX_WAITING)
        self._workers: list[asyncio.Task[None]] = []
        self._running = 0

    def start(self) -> None:
        self._workers = [asyncio.create_task(self._work_forever()) for _ in range(CONCURRENCY)]

    def consider(self, arm: Arm, episode: Episode, endpoint: ModelEndpoint) -> None:
        settings = arm.config.reflection
        if settings.mode not in (ReflectionMode.AFTER_RUN, ReflectionMode.BOTH):
            return
        if episode.client_calls:  # the answer is yet to come
            self._metrics.reflections_skipped.labels("clients_turn").inc()
            return
        if not falls_into(settings.sample_percent, episode.id, "reflection"):
            self._metrics.reflections_skipped.labels("sampled_out").inc()
            return
        try:
            self._waiting.put_nowait(_Work(arm, episode, endpoint))
        except asyncio.QueueFull:
            self._metrics.reflections_skipped.labels("busy").inc()

    async def close(self, seconds: float) -> None:
        """Gives what waits and runs `seconds` to finish; what is left is counted as skipped."""
        try:
            async with asyncio.timeout(seconds):
                await self._waiting.join()
        except TimeoutError:
            left = self._waiting.qsize() + self._running
            self._metrics.reflections_skipped.labels("shutdown").inc(left)
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work_forever(self) -> None:
        while True:
            work = await self._waiting.get()
            self._running += 1
            try:
                await self._reflect(work)
            except Exception:  # one broken reflection must not end the reflecting
                logger.exception("reflection failed", extra={"episode": work.episode.id})
            finally:
                self._running -= 1
                self._waiting.task_done()

    async def _reflect(self, work: _Work) -> None:
        config = work.arm.config
        own = config.reflection.model
        model = own.name if own is not None else config.model.id
        counted = self._metrics.reflections.labels
        source = ReflectionSource.AFTER_RUN
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                endpoint, api = work.endpoint, config.model.api
                if own is not None and own.endpoint is not None:
                    endpoint, api = self._endpoints.at(own.endpoint, config.model), own.endpoint.api
                with model_span(model, endpoint.base_url) as span:
                    said = await endpoint.complete(
                        model,
                        reflection_messages(work.episode),
                        max_tokens=config.reflection.max_output_tokens,
                        api=api,
                        temperature=config.model.temperature if own is None else None,
                        schema=REFLECTION_SCHEMA,
                    )
                    span.used(said.input_tokens, said.output_tokens)
        except (ModelError, TimeoutError) as error:
            counted(*work.arm.labels, source, "failed").inc()
            logger.warning("no reflection: %s", error, extra={"episode": work.episode.id})
            return
        self._metrics.reflection_tokens_used(work.arm, model, said.input_tokens, said.output_tokens)
        fields = parse_reflection(said.text)
        unparsed = said.text if fields is None else None
        await self._record(work.arm, reflection_record(Reflected.of(work.episode), source, fields, unparsed))
