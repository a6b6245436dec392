"""The command line: `python3 hack/tools PROGRAM`."""

from __future__ import annotations

import argparse
import sys

from tools.errors import ToolError
from tools.programs import PROGRAMS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="hack/tools", description="Print the path of a program, got now if needed."
    )
    parser.add_argument("program", choices=sorted(PROGRAMS))
    try:
        print(PROGRAMS[parser.parse_args().program]())
    except ToolError as error:
        print(f"hack/tools: {error}", file=sys.stderr)
        return 2
    return 0
