"""Walkers: agents whose specs change at random, and what is to hold after each change."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from support.api_client import ApiError
from support.cluster import NotInTimeError, eventually_async
from support.lives import Life, World, differences, errors_in
from support.spec_oracle import REFUSED, left_to_do, observe, told_by_hand
from support.spec_walk import PROMPTS, PROMPTS_NAME, SpecWalk, Step
from support.stories import NAME, condition, holds, is_current, is_well

Raw = dict[str, Any]

SEED_SPEC: Raw = {
    "model": {"base": "smollm2", "endpoint": {"baseURL": "http://models:8000/v1"}},
    "agent": {"instructions": "You route requests.", "replicas": 1},
    "curation": {"schedule": "@yearly"},
    "training": {
        "schedule": "@yearly",
        "backend": {"type": "LoRA", "lora": {"adapterVolume": {"claimName": "adapters"}}},
    },
}
# What walks begin with, in turn: the default volume, which is left as it is; one that can grow; a bucket.
STORAGE_CLASS = "growing"
STORAGES: tuple[Raw, ...] = (
    {},
    {"volume": {"size": "10Gi", "storageClassName": STORAGE_CLASS, "accessModes": ["ReadWriteOnce"]}},
    {"objectStore": {"bucket": "experience", "prefix": "agents"}},
)
BACK_EVERY = 10  # steps, until the seed's spec is applied again; at once where part of a spec is refused
_SECONDS = 60
_QUIET_SECONDS = 0.3
_CONDITIONS = ("Ready", "Progressing", "Degraded")


@dataclass
class Account:
    """What became of the steps of one walk."""

    transitions: int = 0  # accepted by the API server, and checked
    rejected: int = 0  # by its schema or its rules, with the field's name
    told: int = 0  # accepted, but the operator says in Degraded what cannot be had
    returns: int = 0  # to the seed's spec
    faults: list[str] = field(default_factory=list)


async def walk(world: World, seed: int, transitions: int) -> Account:
    """So many accepted changes, one after another, with the seed's spec in between."""
    account, origin = Account(), seed_spec(seed)
    walker = SpecWalk(random.Random(seed), fixed="" if "storage" in origin else "storage")
    async with world.life() as life, _volume(life):
        await world.api.create(
            life.scene.namespace, "configmaps", {"metadata": {"name": PROMPTS_NAME}, "data": PROMPTS}
        )
        await life.scene.replace(origin)
        await _settle(life, "the seed", is_well)
        if "volume" in origin.get("storage", {}):
            await eventually_async(lambda: _is_bound(life), _SECONDS, "a volume that can grow")
        home = await _home(life)
        spec = origin
        while account.transitions < transitions:
            step = walker.step(spec)
            try:
                await life.scene.replace(step.spec)
            except ApiError as error:
                account.rejected += 1
                account.faults += _misplaced(error, step, seed)
                continue
            before, spec = spec, step.spec
            account.transitions += 1
            faults = [fault async for fault in _faults(life, account)]
            is_refused = condition(await life.scene.agent(), "Degraded")["reason"] in REFUSED
            if (account.transitions % BACK_EVERY == 0 or is_refused) and not faults:
                spec = _origin(origin, before if is_refused else spec)
                await life.scene.replace(spec)
                account.returns += 1
                faults = [f"back home: {fault}" async for fault in _strangeness(life, home)]
            account.faults += [f"seed {seed}, {account.transitions}: {step}: {fault}" for fault in faults]
            if faults:  # what follows from a fault is no fault of its own
                return account
    return account


def seed_spec(seed: int) -> Raw:
    """Where the walk of this seed begins."""
    storage = STORAGES[seed % len(STORAGES)]
    if "objectStore" not in storage:
        return SEED_SPEC | ({"storage": storage} if storage else {})
    agent = SEED_SPEC["agent"] | {"memory": {"type": "Disabled"}}
    return SEED_SPEC | {"agent": agent, "storage": storage}


def _origin(origin: Raw, spec: Raw) -> Raw:
    """The seed's spec, as far as there is a way back: a volume that has grown stays so."""
    if "volume" not in origin.get("storage", {}):
        return origin
    return origin | {"storage": {"volume": spec["storage"]["volume"]}}


@asynccontextmanager
async def _volume(life: Life) -> AsyncIterator[None]:
    """One that the agent's claim will be bound to: the API server lets no other claim grow."""
    api, name = life.scene.api, f"volume-of-{life.scene.namespace}"
    storage_class = {
        "metadata": {"name": STORAGE_CLASS},
        "provisioner": "kubernetes.io/no-provisioner",
        "allowVolumeExpansion": True,
    }
    with suppress(ApiError):  # another walk has made it
        await api.create("", "storageclasses", storage_class)
    spec = {
        "capacity": {"storage": "10Gi"},
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": STORAGE_CLASS,
        "hostPath": {"path": "/nowhere"},
        "claimRef": {"namespace": life.scene.namespace, "name": f"{NAME}-store"},
    }
    await api.create("", "persistentvolumes", {"metadata": {"name": name}, "spec": spec})
    try:
        yield
    finally:
        await api.delete("", "persistentvolumes", name)


async def _is_bound(life: Life) -> bool:
    claim = await life.scene.api.get(life.scene.namespace, "persistentvolumeclaims", f"{NAME}-store")
    return claim is not None and claim.get("status", {}).get("phase") == "Bound"


def _misplaced(error: ApiError, step: Step, seed: int) -> Iterator[str]:
    """A rejection that does not tell a user which field is at fault."""
    # The API server adds one without a field where what is wrong keeps it from checking the rest.
    fields = [name for name in error.fields if name != "<nil>"]
    if error.code != 422 or not fields or not all(name.startswith("spec") for name in fields):
        yield f"seed {seed}: {step}: rejected without a field: {error} {error.fields}"


async def _faults(life: Life, account: Account) -> AsyncIterator[str]:
    """What is wrong after a change."""
    try:
        await _settle(life, "the change is dealt with", is_current)
        agent = await life.scene.agent()
        if condition(agent, "Degraded")["reason"] in REFUSED:
            account.told += 1
            if not condition(agent, "Degraded")["message"]:
                yield "Degraded without a message"
        else:
            await eventually_async(lambda: _is_as_asked(life), _SECONDS, "the children are as the spec asks")
    except NotInTimeError as error:
        yield str(error)
    for fault in _misbehaviour(life):
        yield fault


async def _is_as_asked(life: Life) -> bool:
    """AssertionError with what is not."""
    agent, owned = await observe(life.scene.api, life.scene.namespace)
    assert condition(agent, "Degraded")["reason"] not in REFUSED, condition(agent, "Degraded")
    faults = [*left_to_do(agent, owned), *told_by_hand(agent, owned)]
    assert faults == [], faults
    return True


async def _strangeness(life: Life, home: Raw) -> AsyncIterator[str]:
    """What is different at the seed's spec from how it was at the beginning."""
    found: Raw = {}

    async def is_home() -> bool:
        nonlocal found
        found = await _home(life)
        return found == home

    try:
        await _settle(life, "the seed's spec again", is_well)
        await eventually_async(is_home, _SECONDS, "the seed's state")
    except NotInTimeError as error:
        for line in differences(home, found) or [str(error)]:
            yield line
    for fault in _misbehaviour(life):
        yield fault


async def _settle(life: Life, what: str, is_reached: Any) -> None:
    async def settled() -> bool:
        return life.proxy.is_quiet(_QUIET_SECONDS) and holds(is_reached, await life.scene.agent())

    await eventually_async(settled, _SECONDS, what)


async def _home(life: Life) -> Raw:
    """The parts of the state that the spec decides, whatever was tried in between."""
    state = await life.scene.state()
    status, children = state["status"], state["children"]
    # Former base models stay in the history, and their configurations until their pods are gone.
    config = children.pop("configmaps/support-config")
    # What has grown stays so: the oracle looks at it at each step.
    children.pop(f"persistentvolumeclaims/{NAME}-store", None)
    agent = {"status": status}
    return {
        "children": children,
        "learning": config["data"]["learning.json"],
        "active": status["active"]["modelID"],
        "candidate": status.get("candidate"),
        "conditions": {kind: condition(agent, kind)["reason"] for kind in _CONDITIONS},
    }


def _misbehaviour(life: Life) -> Iterator[str]:
    yield from (f"the operator ended with {code}" for code in life.exits)
    yield from (f"the operator logged: {line}" for line in errors_in(life.log))


async def walk_all(world: World, seeds: Iterable[int], transitions: int, *, at_once: int) -> list[Account]:
    """One walk for each seed, some of them at the same time."""
    gate = asyncio.Semaphore(at_once)

    async def one(seed: int) -> Account:
        async with gate:
            return await walk(world, seed, transitions)

    async with asyncio.TaskGroup() as group:
        walks = [group.create_task(one(seed)) for seed in seeds]
    return [task.result() for task in walks]
