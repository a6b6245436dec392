"""The command line: `python3 hack/images build [TARGET ...]`."""

from __future__ import annotations

import argparse
import sys

from images import build
from images.targets import TARGETS
from tools.errors import ToolError


def main() -> int:
    parser = argparse.ArgumentParser(prog="hack/images", description="Builds the project's container images.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    builder = verbs.add_parser("build", help="build what changed; prints each image and its archive")
    builder.add_argument("targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help="default: all")
    builder.add_argument(
        "--base", default="", help="base image (default: the Dockerfile's, or one made here)"
    )
    builder.add_argument(
        "--torch-index", default="", help="package index of another build of torch (CPU only)"
    )
    arguments = parser.parse_args()
    try:
        for record in build.build(arguments.targets or list(TARGETS), arguments.base, arguments.torch_index):
            print(f"{record.image}  {record.megabytes} MB over the base  {record.archive}")
    except ToolError as error:
        print(f"hack/images: {error}", file=sys.stderr)
        return 2
    return 0
