"""What the operator costs and how fast it is, beside a bare client that applies the same objects."""

from benchmarks.operator.measure import run
from benchmarks.operator.report import table

__all__ = ["run", "table"]
