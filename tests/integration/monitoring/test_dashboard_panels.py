"""Every query of the dashboard finds series in a real Prometheus that scraped the real registries."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.chart import CHART
from support.cluster import eventually
from support.monitoring import Experience
from support.prometheus import Prometheus, Target, exposed, running_prometheus

DASHBOARD = json.loads((CHART / "dashboards" / "evolving-agents.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
ANNOTATIONS = {annotation["name"]: annotation for annotation in DASHBOARD["annotations"]["list"]}
VARIABLES = {v["name"]: v for v in DASHBOARD["templating"]["list"] if v["type"] == "query"}
WINDOW = "30s"
POD = {"namespace": "bank", "agent": "support"}


def filled_in(query: str, agent: str = "support") -> str:
    """The query as Grafana would send it."""
    for name, value in {
        "$__rate_interval": WINDOW,
        "$__range": WINDOW,
        "$namespace": "bank",
        "$agent": agent,
    }.items():
        query = query.replace(name, value)
    assert "$" not in query, f"a variable is unknown: {query}"
    return query


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Two pods of an agent and the operator's two replicas, scraped while they work."""
    experience = Experience()
    with ExitStack() as stack:
        pods = [
            Target(name, stack.enter_context(exposed(pod.exposition)), POD | {"pod": name})
            for name, pod in zip(("support-0", "support-1"), experience.pods, strict=True)
        ]
        expositions = (experience.operator_exposition, experience.standby_exposition)
        replicas = [
            Target(
                f"operator-{number}",
                stack.enter_context(exposed(exposition)),
                {"namespace": "ops", "job": "operator", "pod": f"operator-{number}"},
                honor_labels=True,
            )
            for number, exposition in enumerate(expositions)
        ]
        server = stack.enter_context(
            running_prometheus(tmp_path_factory.mktemp("prometheus"), [*pods, *replicas])
        )
        before = float(server.series("max(count_over_time(up[1m]))")[0]["value"][1])
        experience.goes_on()  # an increase needs a scrape before and one after
        eventually(
            lambda: server.series(f"min(count_over_time(up[1m])) >= {before + 3}"), 30, "three more scrapes"
        )
        yield server


@pytest.mark.parametrize("title", PANELS)
def test_a_panel_shows_numbers(prometheus: Prometheus, title: str) -> None:
    for target in PANELS[title]["targets"]:
        query = filled_in(target["expr"])
        series = prometheus.series(query)
        assert series, f"{title}: nothing for {query}"
        values = [float(one["value"][1]) for one in series]
        assert any(math.isfinite(value) for value in values), f"{title}: {values} for {query}"
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert all(label in one["metric"] for one in series), f"{title}: no label {label} for {query}"


@pytest.mark.parametrize(
    ("title", "values"),
    [
        ("Ready agents", {1}),
        ("Degraded agents", {1}),
        ("Active models", {1}),
        ("Dataset", {120}),
        ("Newest verdict", {15, 90}),
        ("Latest runs", {1}),
    ],
)
def test_an_agent_that_two_replicas_tell_of_is_one_agent(
    prometheus: Prometheus, title: str, values: set[float]
) -> None:
    for target in PANELS[title]["targets"]:
        series = prometheus.series(filled_in(target["expr"]))
        assert {float(one["value"][1]) for one in series} == values
        assert not any("pod" in one["metric"] for one in series)


def test_a_client_that_leaves_is_no_error_and_no_answer(prometheus: Prometheus) -> None:
    """Of three requests one was answered, one failed, and one was cancelled."""
    (share,) = prometheus.series(filled_in(PANELS["Errors"]["targets"][0]["expr"]))
    assert float(share["value"][1]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "title", [title for title in PANELS if "$agent" in PANELS[title]["targets"][0]["expr"]]
)
def test_a_panel_shows_the_chosen_agent_only(prometheus: Prometheus, title: str) -> None:
    for target in PANELS[title]["targets"]:
        assert prometheus.series(filled_in(target["expr"], agent="nobody")) == []


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_an_annotation_marks_what_happened(prometheus: Prometheus, name: str) -> None:
    assert prometheus.series(filled_in(ANNOTATIONS[name]["expr"]))


@pytest.mark.parametrize(("name", "expected"), [("namespace", ["bank"]), ("agent", ["support"])])
def test_a_variable_offers_what_there_is(prometheus: Prometheus, name: str, expected: list[str]) -> None:
    match = re.fullmatch(r"label_values\((.+), (\w+)\)", VARIABLES[name]["query"]["query"])
    assert match is not None
    assert prometheus.label_values(filled_in(match[1]), match[2]) == expected


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place: dict[str, Any] = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
                assert x < 24
        assert panel["type"] == "row" or panel["description"].endswith(".")
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_every_metric_of_the_alerts_exists(prometheus: Prometheus) -> None:
    known = set(prometheus.get("label/__name__/values"))
    named = set(re.findall(r"evolving_\w+", (CHART / "files" / "alerts.yaml").read_text()))
    assert named - known == set()


def test_the_alerts_are_rules_that_prometheus_takes(tmp_path: Path, prometheus: Prometheus) -> None:
    for rule in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"][0]["rules"]:
        prometheus.series(rule["expr"])
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
