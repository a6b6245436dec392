"""What the API server refused is told for as long as it is asked for, and no longer."""

from __future__ import annotations

from typing import Any

from evolving_operator.api import names
from evolving_operator.api.models import ConditionStatus
from evolving_operator.cluster.errors import Forbidden, Invalid
from evolving_operator.core.plan import ObjectRef
from evolving_operator.testing.fake_cluster import Fault
from evolving_operator.testing.simulation import Simulation

Spec = dict[str, Any]


async def test_who_takes_a_bad_field_back_hears_no_more_of_it(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    refusal = Invalid("spec.template.spec.containers[0].image: invalid", ("spec.template",))
    world.cluster.faults.append(Fault(at=0, error=refusal, kind="Deployment"))
    world.apply_agent(spec | {"agent": {**spec["agent"], "image": "not an image"}})
    await world.settle()
    assert world.condition("Degraded").reason == "InvalidSpec"

    world.apply_agent(spec)
    await world.settle()

    assert world.condition("Degraded").status is ConditionStatus.FALSE
    assert world.events().count("Recovered") == 1


async def test_a_refusal_that_is_over_wakes_nobody_up(world: Simulation, spec: Spec) -> None:
    """An old refusal that was always due would keep the agent's worker busy for ever."""
    await world.serve(spec)
    world.cluster.faults.append(Fault(at=0, error=Invalid("no"), kind="Deployment"))
    world.apply_agent(spec | {"agent": {**spec["agent"], "image": "not an image"}})
    await world.settle()
    world.apply_agent(spec)
    await world.settle()

    world.pass_time(120)
    delay = await world.settle()

    assert delay is None or delay > 0


async def test_a_refusal_is_told_before_a_pin_that_leads_nowhere(world: Simulation, spec: Spec) -> None:
    """It keeps all that the spec asks for from the pods, and nothing else would show it."""
    await world.serve(spec)
    world.cluster.faults.append(Fault(at=0, error=Invalid("no"), kind="Deployment"))
    world.apply_agent(
        spec | {"agent": {**spec["agent"], "image": "not an image"}, "rollout": {"pin": "support-12345678"}}
    )
    await world.settle()

    assert world.condition("Degraded").reason == "InvalidSpec"
    assert "Deployment" in world.condition("Degraded").message


async def test_what_may_not_be_deleted_is_told_and_holds_nothing_else_up(
    world: Simulation, spec: Spec
) -> None:
    """A policy, a Role that lacks the verb, a webhook."""
    await world.serve(spec)
    cron_job = names.curate_cron_job("support")
    delete = world.cluster.delete
    asked: list[str] = []

    async def forbidden(ref: ObjectRef) -> dict[str, Any] | None:
        if ref.kind != "CronJob":
            return await delete(ref)
        asked.append(ref.name)
        raise Forbidden(f"{ref.name} is protected")

    world.cluster.delete = forbidden  # type: ignore[method-assign]
    generation = world.status.observed_generation
    world.apply_agent({key: value for key, value in spec.items() if key != "curation"})
    await world.settle()

    told = world.condition("Degraded")
    assert (told.reason, told.message) == (
        "Forbidden",
        f"CronJob {cron_job} cannot be deleted: {cron_job} is protected",
    )
    assert asked == [cron_job]
    assert world.status.observed_generation != generation

    world.pass_time(11)
    await world.settle()
    assert asked == [cron_job] * 2

    world.cluster.delete = delete  # type: ignore[method-assign]
    world.pass_time(11)
    await world.settle()
    assert world.cluster.get("CronJob", cron_job) is None
    assert world.condition("Degraded").status is ConditionStatus.FALSE


async def test_what_could_not_be_deleted_and_is_wanted_again_is_no_fault(
    world: Simulation, spec: Spec
) -> None:
    await world.serve(spec)
    world.cluster.faults.append(Fault(at=0, error=Forbidden("no"), kind="CronJob"))
    world.apply_agent({key: value for key, value in spec.items() if key != "curation"})
    await world.settle()
    assert world.condition("Degraded").reason == "Forbidden"

    world.apply_agent(spec)
    await world.settle()

    assert world.condition("Degraded").status is ConditionStatus.FALSE
    assert world.cluster.get("CronJob", names.curate_cron_job("support")) is not None
