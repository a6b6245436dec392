"""`python -m benchmarks [operator] [agent]`: measures, prints tables, writes docs/results/bench*.

Without a name, all of them, one after the other. docs/results/bench.md shows the latest of each.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

NAMES = ("operator", "agent")
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    names = parser.parse_args().names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    for name in names:
        results = {"command": _command(name), "machine": machine(), **_benchmark(name).run()}
        sys.stdout.write(f"\n{_benchmark(name).table(results)}\n\n")
        _file(name).write_text(json.dumps(results, indent=2) + "\n")
    (RESULTS / "bench.md").write_text(page())


def page() -> str:
    """The latest results of each benchmark, as Markdown."""
    parts = ["# Measurements\n\nWritten by `make bench`; the raw numbers are beside this page.\n"]
    for name in NAMES:
        if _file(name).exists():
            results = json.loads(_file(name).read_text())
            shown = _benchmark(name).table(results)
            parts.append(f"## {name.capitalize()}\n\n`{_command(name)}`\n\n{shown}\n")
    return "\n".join(parts)


def machine() -> dict[str, object]:
    return {"cores": os.cpu_count(), "python": platform.python_version()}


def _command(name: str) -> str:
    return f"python -m benchmarks {name}"


def _file(name: str) -> Path:
    return RESULTS / f"bench-{name}.json"


def _benchmark(name: str) -> Any:
    """A module that offers `run() -> dict`, fit for JSON, and `table(results) -> str`."""
    return importlib.import_module(f"benchmarks.{name}")


if __name__ == "__main__":
    main()
