"""The results as a table."""

from __future__ import annotations

from typing import Any


def table(results: dict[str, Any]) -> str:
    """Markdown: one row for each number."""
    converge, idle, restart = results["converge"], results["idle"], results["restart"]
    edit, bare, load = results["edit"], results["bare"], results["load_average"]
    rows = [
        ("operator: all objects exist", f"{converge['seconds']} s"),
        ("operator: CPU", f"{converge['cpu_seconds']} s"),
        ("operator: writes for each agent", f"{converge['writes_per_agent']}"),
        ("operator: peak memory", _mib(converge["rss_peak_bytes"])),
        ("bare client: all objects exist", f"{bare['seconds']} s"),
        ("bare client: CPU", f"{bare['cpu_seconds']} s"),
        ("bare client: writes for each agent", f"{bare['writes_per_agent']}"),
        ("operator / bare client, time", f"{results['ratio']}"),
        ("operator / bare client, time for each write", f"{results['ratio_per_write']}"),
        (f"idle for {idle['seconds']} s: writes", f"{idle['writes']}"),
        ("idle: CPU", f"{idle['cpu_percent']} %"),
        ("restart: every agent decided upon", f"{restart['seconds']} s"),
        ("restart: CPU, start of Python included", f"{restart['cpu_seconds']} s"),
        ("restart: writes", f"{restart['writes']}"),
        ("restart: peak memory", _mib(restart["rss_peak_bytes"])),
        (f"edit → ConfigMap, {edit['edits']} edits: p50", f"{edit['p50_ms']} ms"),
        ("edit → ConfigMap: p99", f"{edit['p99_ms']} ms"),
    ]
    lines = [
        f"| {results['agents']} agents at 0 replicas, {results['workers']} workers | |",
        "| --- | ---: |",
    ]
    lines += [f"| {name} | {value} |" for name, value in rows]
    lines += [
        "",
        "The machine is shared with API server and etcd; its load average: "
        f"{load['before']} before, {load['after']} after.",
    ]
    return "\n".join(lines)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
