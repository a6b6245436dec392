"""What `make torture` found out about the operator, as tables and in docs/results/torture-operator.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from support.cluster import REPOSITORY
from support.lives import Told
from support.recording_proxy import Point

Raw = dict[str, Any]

RESULTS = REPOSITORY / "docs" / "results" / "torture-operator.json"
# What the first lines of the file add up.
_TOTALS = ("points", "faults", "transitions", "divergences", "lost")


def write_section(name: str, section: Raw) -> None:
    """One test's part of the file; the totals are of all parts that are in it."""
    sections = json.loads(RESULTS.read_text()).get("sections", {}) if RESULTS.exists() else {}
    sections[name] = section
    totals = {key: sum(part.get(key, 0) for part in sections.values()) for key in _TOTALS}
    whole = {"command": "make torture", **totals, "sections": dict(sorted(sections.items()))}
    RESULTS.write_text(json.dumps(whole, indent=2) + "\n")


def summary(told: Sequence[Told], count_as: str) -> Raw:
    """`count_as`: "points" where the operator was killed, "faults" where its requests were harmed."""
    return {
        count_as: sum(len(passage.struck) for passage in told),
        "divergences": sum(bool(passage.faults) for passage in told),
        "lost": sum(passage.state is None for passage in told),
        "passages": len(told),
        "slowest_recovery_seconds": round(max((p.recovery for p in told if p.struck), default=0.0), 1),
        "by_scenario": {
            scenario: {
                count_as: sum(len(passage.struck) for passage in passages),
                "divergences": sum(bool(passage.faults) for passage in passages),
            }
            for scenario, passages in _by_scenario(told).items()
        },
        "diverged": {str(passage): passage.faults for passage in told if passage.faults},
    }


def table(told: Sequence[Told], columns: Iterable[str], column_of: Callable[[Point], str]) -> str:
    """One line for each scenario: how often which harm was done, and how many passages diverged."""
    columns = list(columns)
    lines = [f"{'scenario':<16}" + "".join(f"{name:>24}" for name in columns) + f"{'diverged':>10}"]
    for scenario, passages in _by_scenario(told).items():
        struck = [column_of(point) for passage in passages for point in passage.struck]
        counts = "".join(f"{struck.count(name):>24}" for name in columns)
        lines.append(f"{scenario:<16}{counts}{sum(bool(p.faults) for p in passages):>10}")
    return "\n".join(lines)


def _by_scenario(told: Sequence[Told]) -> dict[str, list[Told]]:
    scenarios: dict[str, list[Told]] = {}
    for passage in told:
        scenarios.setdefault(passage.scenario, []).append(passage)
    return scenarios
