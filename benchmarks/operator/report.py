"""The results as a table."""

from __future__ import annotations

from typing import Any

from benchmarks.tables import Goal, goal, goal_rows, row

# Of any number of agents up to the given one: seconds until all are ready, MiB at the peak.
_LIMITS = ((1000, 60, 150), (10_000, 600, 250))


def goals(size: dict[str, Any]) -> list[Goal]:
    """What the operator is to cost at most with that many agents, and what it did."""
    seconds, mib = next(limits for agents, *limits in _LIMITS if size["agents"] <= agents)
    idle, restart, takeover = size["idle"], size["restart"], size["takeover"]
    peak = max(size["converge"]["rss_peak_bytes"], restart["rss_peak_bytes"])
    return [
        goal("all agents ready, s", seconds, size["converge"]["seconds"]),
        goal("operator / bare client, time", 1.5, size["ratio"]),
        goal("peak memory, MiB", mib, round(peak / (1 << 20))),
        goal("idle: writes", 0, idle["writes"]),
        goal("idle: CPU, %", 1, idle["cpu_percent"]),
        goal("restart: writes", 0, restart["writes"]),
        goal("restart: every agent decided upon, s", 10, restart["seconds"]),
        goal("edit → ConfigMap, p99, ms", 100, size["edit"]["p99_ms"]),
        goal("takeover after SIGKILL of the leader, s", 20, takeover["SIGKILL"]),
        goal("takeover after SIGTERM, s", 3, takeover["SIGTERM"]),
    ]


def table(results: dict[str, Any]) -> str:
    """Markdown: the goals; then one row for each number, one column for each number of agents."""
    lines: list[str] = []
    for size in results["sizes"]:
        lines += [f"With {size['agents']} agents:", "", *goal_rows(goals(size)), ""]
    columns = [_column(size) for size in results["sizes"]]
    sizes = [f"{size['agents']} agents" for size in results["sizes"]]
    lines += [
        row(f"at 0 replicas, 100 in a namespace, {results['workers']} workers", *sizes),
        row("---", *("---:" for _ in columns)),
    ]
    lines += [row(name, *(column[name] for column in columns)) for name in columns[0]]
    loads = _before_and_after(results["sizes"], "load_average")
    paces = _before_and_after(results["sizes"], "pace_seconds", " s")
    machine = (
        f"The machine is shared with API server and etcd; its load average: {loads}. "
        f"Ten million additions in Python took {paces}. "
        "etcd runs without fsync, Kubernetes with GOGC=300."
    )
    return "\n".join([*lines, "", machine])


def _before_and_after(sizes: list[dict[str, Any]], name: str, unit: str = "") -> str:
    noted = (size[name] for size in sizes)
    return "; ".join(f"{each['before']}{unit} before, {each['after']}{unit} after" for each in noted)


def _column(size: dict[str, Any]) -> dict[str, str]:
    converge, idle, restart = size["converge"], size["idle"], size["restart"]
    edit, takeover, bare = size["edit"], size["takeover"], size["bare"]
    return {
        "operator: all agents ready": f"{converge['seconds']} s",
        "operator: CPU": f"{converge['cpu_seconds']} s",
        "operator: writes for each agent": f"{converge['writes_per_agent']}",
        "operator: peak memory": _mib(converge["rss_peak_bytes"]),
        "bare client: all objects exist": f"{bare['seconds']} s",
        "bare client: CPU": f"{bare['cpu_seconds']} s",
        "bare client: writes for each agent": f"{bare['writes_per_agent']}",
        "operator / bare client, time": f"{size['ratio']}",
        "operator / bare client, time for each write": f"{size['ratio_per_write']}",
        f"idle for {idle['seconds']} s: writes": f"{idle['writes']}",
        "idle: CPU": f"{idle['cpu_percent']} %",
        "restart: every agent decided upon": f"{restart['seconds']} s",
        "restart: CPU, start of Python included": f"{restart['cpu_seconds']} s",
        "restart: CPU until there is nothing more to do": f"{restart['cpu_seconds_until_quiet']} s",
        "restart: writes": f"{restart['writes']}",
        "restart: peak memory": _mib(restart["rss_peak_bytes"]),
        f"edit → ConfigMap, {edit['edits']} edits, two a second: p50": f"{edit['p50_ms']} ms",
        "edit → ConfigMap: p99": f"{edit['p99_ms']} ms",
        "of it the edit's own request: p50": f"{edit['request_p50_ms']} ms",
        "of it the edit's own request: p99": f"{edit['request_p99_ms']} ms",
        "bare client: ConfigMap changed → its event: p50": f"{edit['bare_p50_ms']} ms",
        "bare client: ConfigMap changed → its event: p99": f"{edit['bare_p99_ms']} ms",
        "takeover after SIGKILL of the leader": f"{takeover['SIGKILL']} s",
        "takeover after SIGTERM": f"{takeover['SIGTERM']} s",
    }


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
