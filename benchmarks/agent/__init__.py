"""What `evolving-agent serve` costs, beside a bare Agents SDK run on the same model server."""

from benchmarks.agent.measure import run
from benchmarks.agent.report import table

__all__ = ["run", "table"]
