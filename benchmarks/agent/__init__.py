"""What `evolving-agent serve` costs: beside a bare Agents SDK run, and beside LiteLLM's proxy."""

from benchmarks.agent.measure import run
from benchmarks.agent.report import table

__all__ = ["run", "table"]
