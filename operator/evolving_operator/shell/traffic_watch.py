"""Asks serving pods how their live requests end and what is wrong: often while a decision waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from evolving_agent.contract.served import ServedCounts
from evolving_operator.cluster.pods import PodSilentError
from evolving_operator.cluster.records import AgentKey
from evolving_operator.core.observed import Heard
from evolving_operator.core.plan import Counting

logger = logging.getLogger(__name__)

Ask = Callable[[str], Awaitable[ServedCounts]]  # of the pod at that address; raises PodSilentError


@dataclass
class _Followed:
    counting: Counting
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    heard: dict[str, Heard] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class TrafficWatch:
    """One task for each agent that is followed. What a restart forgets, the pods still know."""

    def __init__(
        self,
        ask: Ask,
        news: Callable[[AgentKey], None],
        asked: Callable[[bool], None] = lambda _: None,
        *,
        chance: random.Random | None = None,
    ) -> None:
        """`news` is told of an agent whose counts have changed, `asked` of each question and its success."""
        self._ask = ask
        self._news = news
        self._asked = asked
        self._chance = chance or random.Random()  # noqa: S311 - jitter, not secrets
        self._followed: dict[AgentKey, _Followed] = {}

    def follow(self, key: AgentKey, counting: Counting | None) -> None:
        known = self._followed.get(key)
        if counting is None:
            if known is not None:
                self._forget(key)
        elif known is None:
            followed = _Followed(counting)
            followed.task = asyncio.create_task(self._poll(key, followed), name=f"traffic of {key[1]}")
            self._followed[key] = followed
        elif known.counting != counting:
            known.counting = counting
            known.changed.set()

    def heard(self, key: AgentKey) -> Mapping[str, Heard]:
        """By the pods' names; those of pods that are no longer asked are not among them."""
        followed = self._followed.get(key)
        return {} if followed is None else followed.heard

    async def close(self) -> None:
        tasks = [followed.task for followed in self._followed.values() if followed.task is not None]
        for key in list(self._followed):
            self._forget(key)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, key: AgentKey) -> None:
        followed = self._followed.pop(key)
        if followed.task is not None:
            followed.task.cancel()

    async def _poll(self, key: AgentKey, followed: _Followed) -> None:
        first = followed.counting
        if not first.at_once:
            await _until_changed(followed, self._chance.uniform(0, first.every_seconds))
        while True:
            followed.changed.clear()
            pods = followed.counting.pods
            answers = await asyncio.gather(*(self._heard(key, name, address) for name, address in pods))
            heard = dict(zip((name for name, _ in pods), answers, strict=True))
            if heard != followed.heard:
                followed.heard = heard
                self._news(key)
            await _until_changed(followed, followed.counting.every_seconds)

    async def _heard(self, key: AgentKey, pod: str, address: str) -> Heard:
        try:
            served = await self._ask(address)
        except PodSilentError as error:
            self._asked(False)
            followed = self._followed.get(key)
            known = followed.heard.get(pod) if followed is not None else None
            if known is None or known.silence != str(error):
                logger.warning(
                    "pod cannot be asked",
                    extra={"namespace": key[0], "pod": pod, "error": str(error)},
                )
            return Heard(silence=str(error))
        self._asked(True)
        return Heard(served)


async def _until_changed(followed: _Followed, seconds: float) -> None:
    """Until there is something else to ask, or the time is over."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(followed.changed.wait(), seconds)
