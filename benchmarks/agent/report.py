"""From samples to numbers, and from numbers to a table."""

from __future__ import annotations

from typing import Any

from benchmarks.agent.load import Samples

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


def table(results: dict[str, Any]) -> str:
    """Markdown: per load the bare run, the agent, and the difference (of CPU: the ratio)."""
    lines = [_line(*COLUMNS), _line(*("---:" if "ms" in name else "---" for name in COLUMNS))]
    for load in results["loads"]:
        bare, agent = load["bare"], load["agent"]
        kind = "streamed" if load["streamed"] else "whole"
        lines += [
            _line(kind, load["concurrency"], load["model_ms"], "bare SDK run", *_numbers(bare)),
            _line("", "", "", "agent", *_numbers(agent)),
            _line("", "", "", "*added*", *_added(bare, agent)),
        ]
    memory, machine_load = results["peak_memory_mib"], results["load_average"]
    lines += [
        "",
        f"Peak memory: {memory['bare']} MiB bare, {memory['agent']} MiB agent. Load average of the machine: "
        f"{machine_load['before']} before, {machine_load['after']} after.",
    ]
    return "\n".join(lines)


def _line(*fields: object) -> str:
    return f"| {' | '.join(map(str, fields))} |"


def _numbers(measured: dict[str, Any]) -> list[str]:
    numbers = [measured[key] for key in (*TIMES, "cpu_ms", "answers_per_second")]
    shown = ["" if number is None else f"{number:.1f}" for number in numbers]
    return [*shown, f"{measured['errors']} of {measured['requests']}"]


def _added(bare: dict[str, Any], agent: dict[str, Any]) -> list[str]:
    times = [(bare[key], agent[key]) for key in TIMES]
    added = ["" if None in pair else f"{pair[1] - pair[0]:+.1f}" for pair in times]
    return [*added, f"x {agent['cpu_ms'] / bare['cpu_ms']:.2f}", "", ""]
