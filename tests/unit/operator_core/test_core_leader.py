"""Leader election on a cluster in memory, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from evolving_operator.cluster.errors import Unavailable
from evolving_operator.core.plan import ObjectRef
from evolving_operator.shell.fence import Fence
from evolving_operator.shell.leader import Leadership, LeadershipLostError, LeaseSettings
from evolving_operator.testing.fake_cluster import FakeCluster, Fault

LEASE = LeaseSettings("default", "operator", 0.6)


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Contest:
    cluster: FakeCluster = field(default_factory=FakeCluster)
    clock: Clock = field(default_factory=Clock)

    def candidate(self, identity: str) -> Leadership:
        return Leadership(self.cluster, LEASE, identity, clock=self.clock)

    @property
    def holder(self) -> str:
        raw = self.cluster.get("Lease", "operator")
        assert raw is not None
        return str(raw["spec"]["holderIdentity"])


@pytest.fixture
def contest() -> Contest:
    return Contest()


async def test_the_first_one_leads_and_the_second_waits(contest: Contest) -> None:
    await contest.candidate("a").acquire()

    waiting = asyncio.create_task(contest.candidate("b").acquire())
    await asyncio.sleep(LEASE.interval * 3)

    assert contest.holder == "a"
    assert not waiting.done()
    waiting.cancel()


async def test_a_silent_holder_is_followed_when_its_lease_has_run_out(contest: Contest) -> None:
    await contest.candidate("a").acquire()
    waiting = asyncio.create_task(contest.candidate("b").acquire())
    await asyncio.sleep(LEASE.interval * 2)

    contest.clock.now += 1.1  # leases last whole seconds, at least one

    await asyncio.wait_for(waiting, 5)
    assert contest.holder == "b"


async def test_a_released_lease_is_taken_at_once(contest: Contest) -> None:
    first = contest.candidate("a")
    await first.acquire()

    await first.release()
    await asyncio.wait_for(contest.candidate("b").acquire(), 5)

    assert contest.holder == "b"


async def test_a_leader_that_cannot_renew_stops_in_time(contest: Contest) -> None:
    leader = contest.candidate("a")
    await leader.acquire()
    for _ in range(100):
        contest.cluster.faults.append(Fault(at=0, error=Unavailable("down")))
    contest.clock.now += LEASE.renew_deadline

    with pytest.raises(LeadershipLostError):
        await asyncio.wait_for(leader.keep(), 5)


async def test_a_leader_whose_lease_was_taken_stops(contest: Contest) -> None:
    leader = contest.candidate("a")
    await leader.acquire()
    raw = contest.cluster.get("Lease", "operator")
    assert raw is not None
    raw["spec"]["holderIdentity"] = "b"
    contest.cluster.put(raw)

    with pytest.raises(LeadershipLostError):
        await asyncio.wait_for(leader.keep(), 5)


async def test_one_failed_renewal_is_survived(contest: Contest) -> None:
    leader = contest.candidate("a")
    await leader.acquire()
    contest.cluster.faults.append(Fault(at=0, error=Unavailable("down")))

    keeping = asyncio.create_task(leader.keep())
    await asyncio.sleep(LEASE.interval * 4)

    assert not keeping.done()
    keeping.cancel()


async def test_only_the_holder_releases(contest: Contest) -> None:
    await contest.candidate("a").acquire()

    await contest.candidate("b").release()

    assert contest.holder == "a"


async def test_a_leader_that_slept_past_its_lease_writes_nothing(contest: Contest) -> None:
    leader = contest.candidate("a")
    await leader.acquire()
    gateway = Fence(contest.cluster, leader)
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "default", "name": "c", "labels": {}},
    }
    await gateway.apply(config_map)
    before = list(contest.cluster.writes)

    contest.clock.now += LEASE.renew_deadline

    for write in (gateway.apply, gateway.overwrite, gateway.apply_status, gateway.create, gateway.replace):
        with pytest.raises(LeadershipLostError):
            await write(config_map)
    with pytest.raises(LeadershipLostError):
        await gateway.delete(ObjectRef("v1", "ConfigMap", "default", "c"))
    assert contest.cluster.writes == before


async def test_a_watch_that_sees_the_release_ends_the_wait(contest: Contest) -> None:
    patient = LeaseSettings("default", "operator", 6000)  # asks a thousand seconds later by itself
    first = Leadership(contest.cluster, patient, "a", clock=contest.clock)
    second = Leadership(contest.cluster, patient, "b", clock=contest.clock)
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(0)

    raw = contest.cluster.get("Lease", "operator")
    assert raw is not None
    second.seen(raw)  # it is held
    await asyncio.sleep(0)
    assert not waiting.done()
    await first.release()
    raw = contest.cluster.get("Lease", "operator")
    assert raw is not None
    second.seen(raw)

    await asyncio.wait_for(waiting, 5)
    assert contest.holder == "b"
