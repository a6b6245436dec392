"""What is kept of an object is all that is read of it, and little else."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from evolving_operator.api import names
from evolving_operator.cluster.kinds import CACHED, kind_of
from evolving_operator.cluster.listing import ListReader
from evolving_operator.cluster.records import GarbledError, Record, parse_event, parse_list
from evolving_operator.core.builders.debt import DEBT_KEY
from evolving_operator.core.ownership import other_writers, owned_fields
from evolving_operator.core.reading import (
    read_agent,
    read_debt,
    read_deployment,
    read_job,
    read_pod,
    read_revision,
)
from evolving_operator.testing.simulation import Simulation

Spec = dict[str, Any]
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
MANAGED = {
    "manager": names.FIELD_MANAGER,
    "operation": "Apply",
    "time": "2026-01-01T00:00:00Z",
    "fieldsV1": {"f:metadata": {"f:ownerReferences": {'k:{"uid":"u-1"}': {}}}, "f:spec": {"f:ports": {}}},
}


async def test_whatever_is_read_of_an_object_is_read_of_its_record(world: Simulation, spec: Spec) -> None:
    await world.serve(spec)
    await world.curate()
    await world.promote()
    readers: dict[str, Callable[..., object]] = {
        names.AGENT_KIND: read_agent,
        names.REVISION_KIND: partial(read_revision, agent="support", uid="another"),
        "Deployment": read_deployment,
        "Pod": read_pod,
        "Job": partial(read_job, pods=()),
    }
    seen = set()
    for kind in CACHED:
        for raw in world.cluster.all(kind.kind):
            if kind.kind in readers:
                assert readers[kind.kind](Record.of(raw).raw()) == readers[kind.kind](raw)
                seen.add(kind.kind)
    assert seen == readers.keys()


def test_long_objects_come_back_as_they_were_however_they_differ() -> None:
    """Each is compressed with the first of its kind; some are alike, some are nothing like it."""
    chance = random.Random(7)
    texts = ["You route requests. " * 200 + str(number) for number in range(3)]
    texts += ["".join(chr(chance.randrange(32, 0x2FFF)) for _ in range(size)) for size in (3000, 50_000)]
    records = [Record.of(agent_with(text)) for text in texts]
    assert [record.raw()["spec"]["agent"]["instructions"] for record in records] == texts
    assert len(records[1].text) < len(texts[1]) / 10


def agent_with(instructions: str) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.AGENT_KIND,
        "metadata": {"name": "support", "namespace": "default", "uid": "u-8", "resourceVersion": "8"},
        "spec": {"agent": {"instructions": instructions}},
    }


def service(**metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "support",
            "namespace": "default",
            "uid": "u-7",
            "resourceVersion": "7",
            "labels": {names.LABEL_AGENT: "support"},
            "annotations": {names.ANNOTATION_APPLIED_HASH: "h", LAST_APPLIED: "x" * 999},
            **metadata,
        },
        "spec": {"ports": [{"port": 80}]},
        "status": {"loadBalancer": {}},
    }


def test_an_object_that_cannot_be_read_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    kind = kind_of("v1", "Service")
    odd = {"metadata": {"name": "odd", "namespace": "shop", "resourceVersion": "8", "labels": 5}}
    text = json.dumps({"metadata": {"resourceVersion": "9"}, "items": [odd, service()]}).encode()

    assert [record.key[2] for record in parse_list(kind, text).records] == ["support"]
    assert parse_event(kind, json.dumps({"type": "ADDED", "object": odd}).encode()) == ("ADDED", "8", None)

    told = [(record.levelname, getattr(record, "object", "")) for record in caplog.records]
    assert told == [("ERROR", "Service/odd")] * 2


def test_text_that_is_nested_too_deeply_is_garbled() -> None:
    kind = kind_of("v1", "Service")
    deep = '{"a":' * 5000 + "1" + "}" * 5000
    text = f'{{"metadata":{{"resourceVersion":"9"}},"items":[{{"metadata":{{}},"spec":{deep}}}]}}'

    with pytest.raises(GarbledError):
        parse_list(kind, text.encode())
    with pytest.raises(GarbledError):
        parse_event(kind, f'{{"type":"ADDED","object":{deep}}}'.encode())
    reader = ListReader(kind)
    assert reader.feed(text.encode()) == []


def test_of_what_is_only_applied_the_metadata_is_kept() -> None:
    kind = kind_of("v1", "Service")
    (record,) = parse_list(
        kind, json.dumps({"metadata": {"resourceVersion": "9"}, "items": [service()]}).encode()
    ).records

    assert record.agent == ("default", "support")
    assert record.raw() == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "support",
            "namespace": "default",
            "uid": "u-7",
            "resourceVersion": "7",
            "annotations": {names.ANNOTATION_APPLIED_HASH: "h"},
        },
        "owned": "",
        "writers": "",
        "autoscaled": False,
    }


def test_ownership_is_read_once_for_all_objects_of_a_shape() -> None:
    kind = kind_of("v1", "Service")
    other = copy.deepcopy(MANAGED)
    other["fieldsV1"] = json.loads(json.dumps(MANAGED["fieldsV1"]).replace("u-1", "u-2"))
    other["time"] = "2026-02-02T00:00:00Z"
    lines = [
        json.dumps({"type": "ADDED", "object": service(managedFields=[managed])}).encode()
        for managed in (MANAGED, other)
    ]

    first, second = (parse_event(kind, line).record for line in lines)

    assert first is not None
    assert second is not None
    assert first.ownership is second.ownership
    assert first.raw()["owned"] == owned_fields(service(managedFields=[MANAGED]))
    assert first.raw()["writers"] == other_writers(service(managedFields=[MANAGED]))


def test_a_caller_may_change_what_it_is_given() -> None:
    record = Record.of({"apiVersion": "v1", "kind": "Service", **service()})

    record.raw()["metadata"]["annotations"].clear()

    assert record.raw()["metadata"]["annotations"] != {}


def test_what_is_owed_to_a_provider_is_kept() -> None:
    raw = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "support-release",
            "namespace": "default",
            "uid": "u",
            "resourceVersion": "5",
            "labels": names.labels("support", names.COMPONENT_RELEASE),
            "annotations": {names.ANNOTATION_AGENT_UID: "a"},
        },
        "data": {DEBT_KEY: "{}", "other": "ballast"},
    }

    record = Record.of(raw)

    assert read_debt(record.raw()) == read_debt(raw)
    assert read_debt(raw) is not None
    assert "other" not in record.raw()["data"]
