"""From samples to numbers, and from numbers to a table."""

from __future__ import annotations

from typing import Any

from benchmarks.agent.load import Samples
from benchmarks.tables import goal, goal_rows, row

TIMES = ("p50_ms", "p99_ms", "first_piece_p50_ms", "first_piece_p99_ms")
COLUMNS = (
    *("answers", "concurrent", "model ms", "", "p50 ms", "p99 ms"),
    *("first piece p50 ms", "p99 ms", "CPU ms", "answers/s", "errors"),
)


def cell(samples: Samples, cpu_seconds: float) -> dict[str, Any]:
    """One subject under one load. Times in ms; CPU per request; null where there is no such number."""
    asked = len(samples.seconds) + len(samples.errors)
    return {
        "requests": asked,
        "errors": len(samples.errors),
        "first_error": next(iter(samples.errors), None),
        "p50_ms": _percentile_ms(samples.seconds, 50),
        "p99_ms": _percentile_ms(samples.seconds, 99),
        "first_piece_p50_ms": _percentile_ms(samples.first, 50),
        "first_piece_p99_ms": _percentile_ms(samples.first, 99),
        "cpu_ms": round(cpu_seconds / asked * 1000, 2),
        "answers_per_second": round(len(samples.seconds) / samples.elapsed, 1),
    }


def _percentile_ms(seconds: list[float], percent: int) -> float | None:
    """The smallest sample that at least so many percent of all do not exceed."""
    if not seconds:
        return None
    rank = -(-len(seconds) * percent // 100)
    return round(sorted(seconds)[rank - 1] * 1000, 2)


def goals(loads: list[dict[str, Any]], memory_mib: float, endurance: dict[str, Any]) -> list[dict[str, Any]]:
    """What the agent is to cost at most, and what it did, at 50 concurrent with room on the CPU."""
    whole, streamed = (
        next(load for load in loads if load["streamed"] is kind and load["model_ms"] == 1000)
        for kind in (False, True)
    )

    def added(load: dict[str, Any], key: str) -> float:
        return round(float(load["agent"][key]) - float(load["bare"][key]), 2)

    rows = [
        ("added latency p50, ms", 5, added(whole, "p50_ms")),
        ("added latency p99, ms", 20, added(whole, "p99_ms")),
        ("first streamed piece later, p50, ms", 5, added(streamed, "first_piece_p50_ms")),
        ("CPU, times the bare run, whole", 1.5, round(whole["agent"]["cpu_ms"] / whole["bare"]["cpu_ms"], 2)),
        (
            "CPU, times the bare run, streamed",
            1.5,
            round(streamed["agent"]["cpu_ms"] / streamed["bare"]["cpu_ms"], 2),
        ),
        ("peak memory, MiB", 250, memory_mib),
        (f"errors in {endurance['requests']} requests", 0, endurance["errors"]),
    ]
    return [goal(*fields) for fields in rows]


def table(results: dict[str, Any]) -> str:
    """Markdown: the goals; then per load the bare run, the agent with what it adds, and LiteLLM's proxy."""
    lines = [
        *goal_rows(results["goals"]),
        "",
        row(*COLUMNS),
        row(*("---:" if "ms" in name else "---" for name in COLUMNS)),
    ]
    for load in results["loads"]:
        bare, agent, litellm = load["bare"], load["agent"], load["litellm"]
        kind = "streamed" if load["streamed"] else "whole"
        lines += [
            row(kind, load["concurrency"], load["model_ms"], "bare SDK run", *_numbers(bare)),
            row("", "", "", "agent", *_numbers(agent)),
            row("", "", "", "*added*", *_added(bare, agent)),
            row("", "", "", "LiteLLM proxy", *_numbers(litellm)),
            row("", "", "", "*added*", *_added(bare, litellm)),
        ]
    memory, machine_load = results["peak_memory_mib"], results["load_average"]
    endurance = results["endurance"]
    lines += [
        "",
        f"{endurance['requests']} requests to the agent as fast as it answers: {endurance['errors']} errors, "
        f"{endurance['answers_per_second']} answers/s.",
        f"Peak memory: {memory['bare']} MiB bare, {memory['agent']} MiB agent, {memory['litellm']} MiB "
        f"LiteLLM {results['litellm_version']}.",
        "A bare run has no HTTP in front of it, no log and no memory; LiteLLM's proxy checks its "
        "key and forwards, and runs no agent.",
        f"Load average of the machine: {machine_load['before']} before, {machine_load['after']} after.",
    ]
    return "\n".join(lines)


def _numbers(measured: dict[str, Any]) -> list[str]:
    numbers = [measured[key] for key in (*TIMES, "cpu_ms", "answers_per_second")]
    shown = ["" if number is None else f"{number:.1f}" for number in numbers]
    return [*shown, f"{measured['errors']} of {measured['requests']}"]


def _added(bare: dict[str, Any], agent: dict[str, Any]) -> list[str]:
    times = [(bare[key], agent[key]) for key in TIMES]
    added = ["" if None in pair else f"{pair[1] - pair[0]:+.1f}" for pair in times]
    return [*added, f"x {agent['cpu_ms'] / bare['cpu_ms']:.2f}", "", ""]
