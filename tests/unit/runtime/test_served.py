"""What a pod counts of live requests: both sides of a trial from its beginning."""

from __future__ import annotations

from evolving_agent.contract.config import AgentConfig, ServedModel, Traffic, TrafficShare
from evolving_agent.contract.served import ServedAs
from evolving_agent.runtime.served import ServedTally
from evolving_agent.runtime.traffic import Arm

SHARE = TrafficShare(config="abc", percent=10)
MODEL = ServedModel(id="m", base_url="http://models:8000/v1")
ARM = Arm("canary", AgentConfig(revision="r", model=MODEL, instructions="Route."), "abc")


def test_the_second_trial_of_a_configuration_counts_anew() -> None:
    tally = ServedTally(Traffic(canary=SHARE, trial="first"))
    tally.ended(ARM, "failed")
    assert tally.counts().of("abc", ServedAs.CANARY).errors == 1

    tally.follow(Traffic(canary=SHARE, trial="second"))

    assert tally.counts().trial == "second"
    assert tally.counts().of("abc", ServedAs.CANARY).requests == 0


def test_a_trial_without_a_name_goes_by_its_configuration() -> None:
    tally = ServedTally(Traffic(canary=SHARE))

    assert tally.counts().trial == "abc"
