"""Leader election on a cluster in memory, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from evolving_operator.cluster.errors import Unanswered, Unavailable
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


class DeadConnection(FakeCluster):
    """One renewal is never answered."""

    def __init__(self) -> None:
        super().__init__()
        self.renewals = 0
        self.has_renewed = asyncio.Event()

    async def replace(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self.renewals += 1
        if self.renewals == 1:
            await asyncio.Event().wait()
        self.has_renewed.set()
        return await super().replace(manifest)


async def test_a_renewal_that_nobody_answers_leaves_time_for_another() -> None:
    cluster = DeadConnection()
    leader = Leadership(cluster, LeaseSettings("default", "operator", 3), "a")
    await leader.acquire()

    keeping = asyncio.create_task(leader.keep())
    renewed = asyncio.create_task(cluster.has_renewed.wait())
    done, _ = await asyncio.wait({keeping, renewed}, return_when=asyncio.FIRST_COMPLETED)

    assert done == {renewed}
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


# --- what people do to the Lease: the leader does not know yet, and may write for as long as it had it ---


def lease_of(contest: Contest) -> dict[str, Any]:
    raw = contest.cluster.get("Lease", "operator")
    assert raw is not None
    return raw


def cleared(contest: Contest) -> None:
    raw = lease_of(contest)
    raw["spec"]["holderIdentity"] = ""
    contest.cluster.put(raw)


def emptied(contest: Contest) -> None:
    raw = lease_of(contest)
    raw["spec"] = {}
    contest.cluster.put(raw)


def without_spec(contest: Contest) -> None:
    raw = lease_of(contest)
    del raw["spec"]
    contest.cluster.put(raw)


def shortened(contest: Contest) -> None:
    raw = lease_of(contest)
    raw["spec"]["leaseDurationSeconds"] = 1
    contest.cluster.put(raw)


def deleted(contest: Contest) -> None:
    contest.cluster.remove("Lease", "operator")


MISCHIEF = [cleared, emptied, without_spec, shortened, deleted]
LONG = LeaseSettings("default", "operator", 15)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> LeaseSettings:
    """A Lease of fifteen seconds by the test's clock, that is looked at a hundred times a second."""
    monkeypatch.setattr(LeaseSettings, "interval", property(lambda _: 0.01))
    return LONG


@pytest.mark.parametrize("mischief", MISCHIEF)
async def test_who_stands_by_waits_for_a_leader_that_may_still_write(
    contest: Contest, hurried: LeaseSettings, mischief: Callable[[Contest], None]
) -> None:
    leader = Leadership(contest.cluster, hurried, "a", clock=contest.clock)
    standby = Leadership(contest.cluster, hurried, "b", clock=contest.clock)
    await leader.acquire()
    waiting = asyncio.create_task(standby.acquire())
    await asyncio.sleep(0.05)

    mischief(contest)
    standby.seen(contest.cluster.get("Lease", "operator") or {})
    await asyncio.sleep(0.05)
    contest.clock.now += hurried.renew_deadline - 0.1
    await asyncio.sleep(0.05)

    leader.check()  # it may write, so nobody else does
    assert not waiting.done()

    # and it is gone when it can be no leader any more
    contest.clock.now += 6
    await asyncio.wait_for(waiting, 5)
    assert contest.holder == "b"
    with pytest.raises(LeadershipLostError):
        leader.check()


@pytest.mark.parametrize("mischief", MISCHIEF)
async def test_the_leader_takes_its_lease_back(contest: Contest, mischief: Callable[[Contest], None]) -> None:
    patient = LeaseSettings("default", "operator", 6000)  # renews a thousand seconds later by itself
    leader = Leadership(contest.cluster, patient, "a", clock=contest.clock)
    await leader.acquire()
    keeping = asyncio.create_task(leader.keep())
    await asyncio.sleep(0)

    mischief(contest)
    leader.seen(contest.cluster.get("Lease", "operator") or {})
    leader.seen({})
    await asyncio.sleep(0.05)

    assert not keeping.done()
    assert contest.holder == "a"
    assert lease_of(contest)["spec"]["leaseDurationSeconds"] == 6000
    keeping.cancel()


async def test_a_leader_learns_at_once_that_a_person_has_named_another(contest: Contest) -> None:
    patient = LeaseSettings("default", "operator", 6000)
    leader = Leadership(contest.cluster, patient, "a", clock=contest.clock)
    await leader.acquire()
    keeping = asyncio.create_task(leader.keep())
    await asyncio.sleep(0)
    raw = lease_of(contest)
    raw["spec"]["holderIdentity"] = "bob"
    contest.cluster.put(raw)

    leader.seen(raw)

    with pytest.raises(LeadershipLostError):
        await asyncio.wait_for(keeping, 5)


async def test_the_first_of_all_waits_for_nobody(contest: Contest) -> None:
    patient = LeaseSettings("default", "operator", 6000)

    await asyncio.wait_for(Leadership(contest.cluster, patient, "a", clock=contest.clock).acquire(), 5)

    assert contest.holder == "a"


# --- writes under way when the time comes to leave ---


CONFIG_MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"namespace": "default", "name": "c", "labels": {}},
}


class SlowCluster(FakeCluster):
    """Its API server keeps who applies waiting until `answer` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = asyncio.Event()

    async def apply(self, manifest: dict[str, Any]) -> dict[str, Any]:
        await self.answer.wait()
        return await super().apply(manifest)


async def test_a_write_that_has_begun_ends_before_the_lease_is_given_back() -> None:
    cluster = SlowCluster()
    leader = Leadership(cluster, LONG, "a")
    await leader.acquire()
    fence = Fence(cluster, leader)
    await fence.create({**CONFIG_MAP, "metadata": {"namespace": "default", "name": "earlier"}})
    writing = asyncio.create_task(fence.apply(CONFIG_MAP))
    await asyncio.sleep(0)

    closing = asyncio.create_task(fence.close(60))
    await asyncio.sleep(0)
    with pytest.raises(LeadershipLostError):
        await fence.create(CONFIG_MAP)
    assert not closing.done()
    cluster.answer.set()
    await asyncio.wait_for(closing, 5)

    await writing
    assert fence.is_clean


async def test_a_write_that_is_cut_off_leaves_the_lease_to_run_out() -> None:
    cluster = SlowCluster()
    leader = Leadership(cluster, LONG, "a")
    await leader.acquire()
    fence = Fence(cluster, leader)
    writing = asyncio.create_task(fence.apply(CONFIG_MAP))
    await asyncio.sleep(0)

    await fence.close(0.01)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing

    assert not fence.is_clean


async def test_a_write_that_nobody_answered_leaves_the_lease_to_run_out_for_a_minute() -> None:
    cluster, clock = FakeCluster(), Clock()
    leader = Leadership(cluster, LONG, "a")
    await leader.acquire()
    fence = Fence(cluster, leader, clock)
    cluster.faults.append(Fault(at=0, error=Unavailable("503")))
    with pytest.raises(Unavailable):
        await fence.create(CONFIG_MAP)
    assert fence.is_clean

    cluster.faults.append(Fault(at=0, error=Unanswered("timed out")))
    with pytest.raises(Unanswered):
        await fence.create(CONFIG_MAP)

    assert not fence.is_clean
    clock.now += 61
    assert fence.is_clean


async def test_a_lease_that_somebody_deletes_is_made_anew(contest: Contest) -> None:
    leader = contest.candidate("a")
    await leader.acquire()
    keeping = asyncio.create_task(leader.keep())
    await asyncio.sleep(LEASE.interval * 3)  # it has been renewed

    contest.cluster.remove("Lease", "operator")
    await asyncio.sleep(LEASE.interval * 3)

    assert contest.holder == "a"
    assert not keeping.done()
    keeping.cancel()
