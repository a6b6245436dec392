"""The walks' oracle, without a cluster: it finds no fault with what is right, and sees what is forgotten."""

from __future__ import annotations

import copy
import random
from contextlib import suppress
from typing import Any

import pytest
import yaml

from evolving_operator.api.models import EvolvingAgentSpec
from evolving_operator.core.builders.context import BuildContext
from support.cluster import REPOSITORY
from support.golden import IMAGES, build_all
from support.spec_oracle import told_by_hand
from support.spec_walk import SpecWalk

Raw = dict[str, Any]
STEPS = 200


def seeds() -> list[Raw]:
    documents = yaml.safe_load_all((REPOSITORY / "examples" / "reference.yaml").read_text())
    specs = [document["spec"] for document in documents]
    for spec in specs:
        if "instructionsFrom" in spec["agent"]:  # read by the operator, not by the builders
            del spec["agent"]["instructionsFrom"]
            spec["agent"]["instructions"] = "Help."
    return specs


def life_of(spec: Raw) -> tuple[Raw, list[Raw]]:
    """The agent as the API server has it, and its children. ValueError: there is no such spec."""
    model = EvolvingAgentSpec.model_validate(spec)
    backend = model.training.backend if model.training is not None else None
    if model.agent.instructions is None or model.agent.instructions_from is not None:
        raise ValueError("instructions are elsewhere")
    if backend is not None and (backend.type == "LoRA") != (backend.lora is not None):
        raise ValueError("the API server refuses this")
    built = build_all(BuildContext(name="support", namespace="bank", uid="u1", spec=model, images=IMAGES))
    if model.agent.replicas <= 1:
        del built["disruption_budget"]
    return {"spec": model.to_wire()}, [copy.deepcopy(item) for item in built.values()]


@pytest.mark.parametrize("spec", seeds(), ids=["volume", "bucket"])
def test_what_is_right_has_no_fault(spec: Raw) -> None:
    """Wherever a walk leads."""
    walker, here, seen = SpecWalk(random.Random(7)), spec, 0
    while seen < STEPS:
        step = walker.step(here)
        with suppress(ValueError):
            agent, owned = life_of(step.spec)
            assert list(told_by_hand(agent, owned)) == [], step
            seen += 1
            here = step.spec if seen % 10 else spec


# what is built with a fault → what a person would say is wrong
FAULTS: dict[str, tuple[str, str, tuple[str | int, ...], Any]] = {
    "replicas": ("Deployment", "replicas", ("spec", "replicas"), 7),
    "grace": (
        "Deployment",
        "grace",
        ("spec", "template", "spec", "terminationGracePeriodSeconds"),
        30,
    ),
    "size": (
        "PersistentVolumeClaim",
        "size",
        ("spec", "resources", "requests", "storage"),
        "1Gi",
    ),
    "class": ("PersistentVolumeClaim", "storage class", ("spec", "storageClassName"), "slow"),
    "modes": ("PersistentVolumeClaim", "access modes", ("spec", "accessModes"), ["ReadWriteMany"]),
    "time zone": ("CronJob", "time zone", ("spec", "timeZone"), None),
    "suspended": ("CronJob", "suspend", ("spec", "suspend"), None),
    "deadline": (
        "CronJob",
        "training deadline",
        ("spec", "jobTemplate", "spec", "activeDeadlineSeconds"),
        5,
    ),
    "schedule": ("CronJob", "schedule", ("spec", "schedule"), "0 0 * * *"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_seen(fault: str) -> None:
    kind, said, path, value = FAULTS[fault]
    agent, owned = life_of(seeds()[0])
    for item in owned:
        if item["kind"] != kind:
            continue
        place: Any = item
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    assert any(said in told for told in told_by_hand(agent, owned))
