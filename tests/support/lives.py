"""A story, told to an operator that is harmed at one of its writes in every passage: does each end as it does
without?

Every passage begins where the one before has ended as it should, so that each harm stands for itself. The
operator is a process of its own behind a `RecordingProxy`; whenever it ends, another one is started.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from support.api_client import ApiClient, ApiError, Target
from support.background import background
from support.cluster import NotInTimeError, RunningCluster, eventually_async
from support.node import Node
from support.operator_fork import ForkedOperator, OperatorForks
from support.recording_proxy import Point, RecordingProxy, Strike, Write
from support.stories import Passage, Scene, Story, component_of, holds

Raw = dict[str, Any]
Harm = Mapping[int, frozenset[Point]]  # by the number of the passage
# Around a passage's act: what is to be endured, until it ends.
Disturbance = Callable[["Life"], AbstractAsyncContextManager[None]]

LEASE_NAME = "evolving-operator"
_QUIET_SECONDS = 0.8
_AGREE_SECONDS = 30.0  # after the last harm of a passage, or when it first seems over
_PASSAGE_SECONDS = 180.0  # a machine that is busy is slow, not wrong
_HOPELESS = 5  # ends in a row that nobody asked for


class HopelessError(Exception):
    """There is no operator any more."""


@dataclass(frozen=True)
class Told:
    """One passage of one life."""

    story: str
    number: int
    scenario: str
    writes: tuple[Write, ...]
    struck: tuple[Point, ...]
    state: Raw | None  # None: it did not come to its end
    faults: tuple[str, ...]  # differences from what was expected, and what else was not as it should be
    recovery: float = 0.0  # seconds from the harm to the expected state

    def __str__(self) -> str:
        where = [f"{point.strike} at {self.write(point)}" for point in self.struck]
        return f"{self.story}, passage {self.number} ({self.scenario}): {', '.join(where) or 'undisturbed'}"

    def write(self, point: Point) -> str:
        return f"write {point.index}, {self.writes[point.index]}"


@dataclass
class World:
    """A cluster, its nodes' part, and operators: what lives need. An async context manager."""

    cluster: RunningCluster
    directory: Path
    settings: Mapping[str, str] = field(default_factory=dict)  # EVOLVING_OPERATOR_*, beyond the usual
    may_give_up: int = 0  # how often the operator may end by itself in one passage, to be started again
    api: ApiClient = field(init=False)
    node: Node = field(init=False)
    forks: OperatorForks = field(init=False)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        self.api = await self._stack.enter_async_context(ApiClient(Target.of(self.cluster.kubeconfig)))
        self.node = Node(self.api)
        await self._stack.enter_async_context(self.node.working())
        self.forks = await self._stack.enter_async_context(OperatorForks())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def life(self) -> AsyncIterator[Life]:
        """A namespace with an operator that works in it alone."""
        namespace = f"life-{uuid.uuid4().hex[:10]}"
        await self.api.create("", "namespaces", {"metadata": {"name": namespace}})
        try:
            async with self.node.caring_for(namespace) as ward:
                scene = Scene(self.api, self.node, ward, namespace)
                life = Life(self, scene, self.directory / f"{namespace}.log")
                async with life.proxy.serving() as url, background(life.keep_operator_running(url)):
                    yield life
        finally:
            await self.api.delete("", "namespaces", namespace)


@dataclass
class Life:
    """One agent, its operator, and the proxy between operator and API server."""

    world: World
    scene: Scene
    log: Path
    proxy: RecordingProxy = field(init=False)
    operator: ForkedOperator | None = None
    exits: list[int] = field(default_factory=list)
    untold: set[str] = field(default_factory=set)  # reasons of Events that the API server refused to take

    def __post_init__(self) -> None:
        self.proxy = RecordingProxy(self.world.api.target, self._kill)
        self.log.touch()

    def _kill(self) -> None:
        if self.operator is not None:
            self.operator.kill()

    async def tell(
        self,
        story: Story,
        number: int,
        points: frozenset[Point] = frozenset(),
        expected: Raw | None = None,
        disturbance: Disturbance | None = None,
    ) -> Told:
        """One passage, from its act until the operator has nothing more to do."""
        passage = story.passages[number]
        if number == 0:
            self.scene.spec = story.spec
        exits, read = len(self.exits), self.log.stat().st_size
        self.proxy.begin(points)
        state: Raw | None = None
        faults: list[str] = []
        harmed = time.monotonic()
        try:
            async with disturbance(self) if disturbance is not None else nullcontext():
                await passage.act(self.scene)
            harmed = time.monotonic()
            state = await self._end_state(passage, expected)
            faults += differences(expected, state) if expected is not None else []
        except (NotInTimeError, HopelessError) as error:
            faults.append(f"lost: {error}")
        faults += self._misbehaviour(self.exits[exits:], read)
        if self.proxy.struck:
            harmed = max(harmed, self.proxy.struck_at)
        return Told(
            story.name,
            number,
            passage.scenario,
            tuple(self.proxy.writes),
            tuple(self.proxy.struck),
            state,
            tuple(faults),
            time.monotonic() - harmed,
        )

    async def _end_state(self, passage: Passage, expected: Raw | None) -> Raw:
        """What is there when the operator has nothing more to do; later, where it is not yet `expected`.

        Later, because to be slow is no divergence.
        """

        async def is_over() -> bool:
            if self.is_hopeless:
                raise HopelessError(f"the operator always ends by itself: see {self.log}")
            if not self.proxy.is_quiet(_QUIET_SECONDS):
                return False
            with suppress(ApiError):  # the API server may be on its way back
                return holds(passage.is_over, await self.scene.agent())
            return False

        seemed_over: float | None = None
        while True:
            await eventually_async(is_over, _PASSAGE_SECONDS, f"the end of passage {passage.scenario!r}")
            seemed_over = seemed_over or time.monotonic()
            created = [write.target for write in self.proxy.writes if write.is_creation]
            jobs = [target.removeprefix("jobs/") for target in created if target.startswith("jobs/")]
            state = {**await self.scene.state(), "jobsCreated": dict(Counter(map(component_of, jobs)))}
            if expected is not None:
                state["events"] = self._with_untold(state["events"], expected["events"])
            # Of an agent that is gone, the garbage collector takes what it owned: up to half a minute later
            # on a cluster that has just learned our kinds.
            is_collected = state["status"] is not None or not any(map(is_owned, state["children"].values()))
            patience = _AGREE_SECONDS if is_collected else _PASSAGE_SECONDS
            is_late = time.monotonic() > max(seemed_over, self.proxy.struck_at) + patience
            if is_late and expected is None and not is_collected:
                raise NotInTimeError("the garbage collector left children of an agent that is gone")
            if is_late or (is_collected and expected in (None, state)):
                return state
            await asyncio.sleep(0.5)

    def _with_untold(self, told: Sequence[str], expected: Sequence[str]) -> list[str]:
        """What was told, and what the API server refused to take: an Event is told once or never."""
        refused = [point.index for point in self.proxy.struck if point.strike is Strike.INVALID]
        events = sum(self.proxy.writes[index].target.startswith("events/") for index in refused)
        missing = set(expected) - set(told) - self.untold
        if len(missing) <= events:
            self.untold |= missing
        return sorted({*told, *self.untold})

    @property
    def is_hopeless(self) -> bool:
        """Whether the operator is not started any more, because it ends by itself."""
        latest = self.exits[-_HOPELESS:]
        return len(latest) == _HOPELESS and all(code > 0 for code in latest)

    async def keep_operator_running(self, url: str) -> None:
        """Start it again whenever it ends."""
        kubeconfig = self.log.with_suffix(".kubeconfig")
        kubeconfig.write_text(json.dumps(_kubeconfig(url)))
        environment = {
            "KUBECONFIG": str(kubeconfig),
            "EVOLVING_OPERATOR_NAMESPACES": self.scene.namespace,
            "EVOLVING_OPERATOR_LEASE_NAMESPACE": self.scene.namespace,
            "EVOLVING_OPERATOR_LEASE_NAME": LEASE_NAME,
            "EVOLVING_OPERATOR_METRICS_PORT": "0",
            **self.world.settings,
        }
        try:
            while True:
                self.proxy.leading_since = None
                self.operator = await self.world.forks.start(self.log, environment)
                # Shielded: to stop waiting for the process is not to forget how it ended.
                self.exits.append(await asyncio.shield(self.operator.ended))
                if self.is_hopeless:
                    return
                # Its holder is dead for certain: the next process need not wait until the Lease runs out.
                with suppress(ApiError):
                    await self.world.api.delete(self.scene.namespace, "leases", LEASE_NAME)
        finally:
            if self.operator is not None:
                self.operator.kill()
                await self.operator.ended

    def _misbehaviour(self, exits: Sequence[int], read: int) -> Iterator[str]:
        """What should not have been: ends that nobody asked for, and errors in the log since byte `read`."""
        gave_up = [code for code in exits if code != -signal.SIGKILL]
        if len(gave_up) > self.world.may_give_up:
            yield f"the operator ended {len(gave_up)} times: {gave_up}"
        is_refused = any(point.strike is Strike.INVALID for point in self.proxy.struck)
        for entry in errors_in(self.log, read):
            if is_refused and entry["message"] == "refused":
                continue  # a refused status is an error, and told as one
            if gave_up and entry["message"].startswith("stopping"):
                continue  # counted above
            yield f"the operator logged: {entry['message']} {entry.get('error', entry.get('exception', ''))}"


def is_owned(child: Raw) -> bool:
    return bool(child.get("owners"))


def errors_in(log: Path, read: int = 0) -> Iterator[Raw]:
    """Lines of level ERROR and above, and what is no log line at all, from that byte on."""
    for line in log.read_bytes()[read:].decode(errors="replace").splitlines():
        entry = json.loads(line) if line.startswith("{") else {"level": "ERROR", "message": line}
        if entry["level"] in ("ERROR", "CRITICAL"):
            yield entry


async def tell_undisturbed(world: World, story: Story, last: int | None = None) -> list[Told]:
    """The passages (up to number `last`), as they go when nothing goes wrong.

    Raises AssertionError where even that goes wrong.
    """
    told = []
    async with world.life() as life:
        for number in range(len(story.passages) if last is None else last + 1):
            told.append(await life.tell(story, number))
            assert told[-1].faults == (), f"{told[-1]}: {told[-1].faults}"
    return told


@dataclass(frozen=True)
class Plan:
    """A life to be lived: what is to be done to the operator, and how the passages end without it."""

    story: Story
    expected: Sequence[Told]
    harm: Harm = field(default_factory=dict)
    disturbances: Mapping[int, Disturbance] = field(default_factory=dict)


async def tell_harmed(world: World, plan: Plan) -> list[Told]:
    """The passages up to the last one with harm, or to the first one that goes wrong."""
    told: list[Told] = []
    async with world.life() as life:
        for number in range(max((*plan.harm, *plan.disturbances), default=-1) + 1):
            points, disturbance = plan.harm.get(number, frozenset()), plan.disturbances.get(number)
            state = plan.expected[number].state
            told.append(await life.tell(plan.story, number, points, state, disturbance))
            if told[-1].faults:
                break
    return told


async def tell_all(
    world: World,
    plans: Iterable[Plan],
    *,
    at_once: int,
    on_end: Callable[[list[Told]], None] = lambda _: None,
) -> list[Told]:
    """All lives, some of them at the same time."""
    gate = asyncio.Semaphore(at_once)

    async def one(plan: Plan) -> list[Told]:
        async with gate:
            told = await tell_harmed(world, plan)
        on_end(told)
        return told

    async with asyncio.TaskGroup() as group:
        lives = [group.create_task(one(plan)) for plan in plans]
    return [told for life in lives for told in life.result()]


def harms(expected: Sequence[Told], strikes: Sequence[Strike]) -> list[Harm]:
    """Every strike at every write of every passage, spread over as few lives as possible."""
    rows = [
        [Point(index, strike) for index in range(len(told.writes)) for strike in strikes] for told in expected
    ]
    return [
        {number: frozenset({row[life]}) for number, row in enumerate(rows) if life < len(row)}
        for life in range(max(map(len, rows)))
    ]


def spread(harms: Sequence[Harm], most: int | None) -> Sequence[Harm]:
    """About so many of them, from the first to the last; all of them for None."""
    return harms if most is None else harms[:: max(1, len(harms) // most)]


def differences(expected: object, found: object, path: str = "") -> list[str]:
    """Where two JSON documents differ, one line for each place."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return [
            line
            for key in sorted(expected.keys() | found.keys())
            for line in differences(expected.get(key), found.get(key), f"{path}.{key}" if path else key)
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [
            line
            for index, (left, right) in enumerate(zip(expected, found, strict=True))
            for line in differences(left, right, f"{path}[{index}]")
        ]
    return [] if expected == found else [f"{path}: {found!r} instead of {expected!r}"]


def _kubeconfig(url: str) -> Raw:
    """Without credentials: the proxy has its own."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "proxy",
        "clusters": [{"name": "proxy", "cluster": {"server": url}}],
        "users": [{"name": "proxy", "user": {}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
    }
