"""An operator that sees no agents is to be restarted, though the rest of what it watches comes and goes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from evolving_operator.cluster.cache import Cache
from evolving_operator.cluster.connection import Connection
from evolving_operator.cluster.kinds import AGENT, Kind
from evolving_operator.cluster.live import LiveGateway
from evolving_operator.cluster.records import AgentKey
from evolving_operator.core.builders.context import Images
from evolving_operator.settings import Settings
from evolving_operator.shell.leader import LeaseSettings
from evolving_operator.shell.operator import Operator
from evolving_operator.shell.telemetry import Heartbeat, Telemetry
from evolving_operator.shell.watching import Watching
from evolving_operator.shell.workqueue import WorkQueue
from evolving_operator.testing.fake_cluster import FakeCluster
from support.silent_watches import SilentWatches

AGENTS = AGENT.path(None)


class Serving(LiveGateway):
    async def serves(self, kind: Kind) -> bool:
        return True


@dataclass
class BrokenWatching(Watching):
    """Each time that kopf begins, it lists the Lease; then it reads of the agents what it cannot bear."""

    answers: list[tuple[bool, int]] = field(default_factory=list)  # of agents: is it a watch's, the code
    ages: list[float] = field(default_factory=list)  # of the heartbeat, after each time
    now: float = 0.0

    async def _watch(self) -> None:
        self.now += 60
        for is_watch, code in self.answers:
            self._was_answered(AGENTS, is_watch, code)
        self._lease_was_seen({"spec": {"holderIdentity": "me"}})
        self.ages.append(self.operator.telemetry.heartbeat.age)
        if len(self.ages) == 3:
            self.stop.set()
        raise RecursionError("maximum recursion depth exceeded")


@pytest.mark.parametrize(
    ("answers", "ages"),
    [
        ([(False, 200)], [0, 60, 120]),
        ([(False, 200), (True, 200)], [0, 0, 0]),
        ([(False, 403)], [0, 0, 0]),  # in one of several namespaces: to begin anew would not help
    ],
    ids=["listed in vain", "watched", "refused"],
)
async def test_the_lease_is_no_sign_of_life_where_agents_cannot_be_watched(
    answers: list[tuple[bool, int]], ages: list[float]
) -> None:
    cluster, cache, queue = FakeCluster(), Cache(), WorkQueue[AgentKey]()
    telemetry = Telemetry(cache, queue.__len__)
    settings = Settings(Images(agent="example/agent:1", trainer="example/trainer:1"))
    lease = LeaseSettings("default", "operator", 15)
    operator = Operator(settings, cluster, SilentWatches(cluster), cache, queue, telemetry, lease)
    operator.watches_due.set()
    connection = Connection("http://nowhere")
    watching = BrokenWatching(
        operator, Serving(connection), connection, asyncio.Event(), lambda: None, answers=answers
    )
    telemetry.heartbeat = Heartbeat(lambda: watching.now)

    await watching.run()

    assert watching.ages == ages
