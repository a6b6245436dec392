from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evolving_agent.contract.config import AgentConfig, ServedModel, Traffic, TrafficShare
from evolving_agent.runtime.configuration import Configuration
from evolving_agent.runtime.traffic import CANARY, Arm, answering_arm, fallback_arm, falls_into, shadow_arm


def config(revision: str) -> AgentConfig:
    model = ServedModel(id=revision, base_url="http://model/v1")
    return AgentConfig(revision=revision, model=model, instructions="x")


OWN, CANDIDATE = config("a-00000001"), config("a-00000002")


def configuration(**traffic: TrafficShare) -> Configuration:
    configs = {entry.hash: entry for entry in (OWN, CANDIDATE)}
    return Configuration(OWN, OWN.hash, configs, Traffic(**traffic))


def test_shares_are_about_as_large_as_they_say() -> None:
    keys = [f"session-{number}" for number in range(10_000)]
    for percent in (0, 1, 10, 50, 100):
        hit = sum(falls_into(percent, key, "canary") for key in keys)
        assert abs(hit - percent * 100) <= 200


@given(st.text(), st.integers(0, 99))
def test_a_key_in_a_small_share_is_in_every_larger_one(key: str, percent: int) -> None:
    assert falls_into(percent, key, "canary") <= falls_into(percent + 1, key, "canary")


def test_without_shares_the_pods_own_configuration_answers() -> None:
    arm = answering_arm(configuration(), "s")

    assert (arm.name, arm.config) == ("active", OWN)
    assert shadow_arm(configuration(), "s") is None


def test_a_share_of_the_pods_own_entry_is_none() -> None:
    """After a promotion the file may still name the promoted entry: the new pods are no canary of it."""
    share = TrafficShare(config=OWN.hash, percent=100)

    assert answering_arm(configuration(canary=share), "s").name == "active"
    assert shadow_arm(configuration(shadow=share), "s") is None


def test_who_is_in_the_canary_is_not_who_is_shadowed() -> None:
    share = TrafficShare(config=CANDIDATE.hash, percent=50)
    both = configuration(canary=share, shadow=share)
    keys = [str(number) for number in range(200)]
    canary = {key for key in keys if answering_arm(both, key).name == "canary"}
    shadow = {key for key in keys if shadow_arm(both, key)}

    assert canary != shadow
    assert canary & shadow


@given(st.text(), st.integers(0, 100), st.integers(0, 100))
def test_a_session_stays_where_it_began_whatever_the_share_becomes(
    session: str, then: int, later: int
) -> None:
    before = configuration(canary=TrafficShare(config=CANDIDATE.hash, percent=then))
    after = configuration(canary=TrafficShare(config=CANDIDATE.hash, percent=later))
    began_with = answering_arm(before, session)

    assert answering_arm(after, session, began_with.config_hash) == began_with


@given(st.text())
def test_a_canary_that_was_taken_back_answers_nobody(session: str) -> None:
    assert answering_arm(configuration(), session, CANDIDATE.hash).config == OWN
    other = configuration(canary=TrafficShare(config=CANDIDATE.hash, percent=0))
    assert answering_arm(other, session, "0123456789").config == OWN


def test_the_previous_revision_answers_for_the_own_and_the_own_for_a_canary() -> None:
    own = Arm("active", OWN, OWN.hash)
    known = Configuration(OWN, OWN.hash, {CANDIDATE.hash: CANDIDATE}, Traffic(), previous=CANDIDATE.hash)
    instead = fallback_arm(known, own)

    assert instead is not None
    assert (instead.name, instead.config) == ("fallback", CANDIDATE)
    assert fallback_arm(configuration(), Arm(CANARY, CANDIDATE)) == Arm("fallback", OWN, OWN.hash)


def test_nobody_stands_in_where_nothing_else_is_known_or_it_has_the_same_model() -> None:
    own = Arm("active", OWN, OWN.hash)
    same = OWN.model_copy(update={"revision": "a-00000000"})

    assert fallback_arm(configuration(), own) is None
    assert fallback_arm(Configuration(OWN, OWN.hash, {}, Traffic(), previous="0123456789"), own) is None
    assert fallback_arm(Configuration(OWN, OWN.hash, {"x": same}, Traffic(), previous="x"), own) is None
