"""`evolving-operator run` is the operator; `evolving-operator crds` writes the kinds that it knows."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from evolving_operator.cluster.connection import ConnectionSettingsError
from evolving_operator.cluster.informer import HistoryLostError
from evolving_operator.settings import Settings, SettingsError
from evolving_operator.shell import logs
from evolving_operator.shell.leader import LeadershipLostError
from evolving_operator.shell.process import run

logger = logging.getLogger("evolving_operator")

# The API server takes JSON of ten thousand levels. Whoever may write one agent could hide all others with it,
# where Python (3.11 here; later versions count other frames only) gives up at a thousand.
_DEEPEST = 30_000


def main(arguments: list[str] | None = None) -> int:
    """0 after SIGTERM; 1 where the process ended for another reason; 2 for settings that make no sense."""
    parser = argparse.ArgumentParser(prog="evolving-operator", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("run", help="watch and reconcile; settings come from EVOLVING_OPERATOR_* variables")
    crds = verbs.add_parser("crds", help="write the CustomResourceDefinitions as YAML files")
    crds.add_argument("directory", nargs="+", type=Path, help="written to each")
    options = parser.parse_args(arguments)
    if options.verb == "crds":
        # Here, since the schemas of all kinds are made with it: a tenth of a second of each start.
        from evolving_operator.api.crd import write_crds  # noqa: PLC0415

        for directory in options.directory:
            write_crds(directory)
        return 0
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        print(error, file=sys.stderr)  # noqa: T201 - before there are logs, for the person at the terminal
        return 2
    logs.configure(settings.log_level)
    sys.setrecursionlimit(_DEEPEST)
    try:
        asyncio.run(run(settings))
    except (LeadershipLostError, HistoryLostError, ConnectionSettingsError) as error:
        logger.error("stopping: %s", error)
        return 1
    except Exception:
        logger.exception("stopping")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
