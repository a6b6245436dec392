"""The command line: `python3 hack/cluster VERB`."""

from __future__ import annotations

import argparse
import os
import sys

from cluster import build, doctor, provider
from cluster.layout import TIERS, Admission, Cluster
from tools.errors import ToolError

EPILOG = """\
Where the cluster comes from, the first that applies: the kubeconfig context that --context or
EVOLVING_CONTEXT names; kind, where it is installed and a Docker engine answers; else the components
are built from source and run in namespaces of their own (needs root; the first build takes minutes,
every later `up` seconds).
"""


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", default="dev", help="which cluster (default: dev)")
    common.add_argument(
        "--context", default=os.environ.get("EVOLVING_CONTEXT", ""), help="use this kubeconfig context"
    )
    common.add_argument("--provider", choices=provider.NAMES, help="do not choose: use this provider")
    root = argparse.ArgumentParser(
        prog="hack/cluster",
        description="A real Kubernetes for tests and for trying things.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = root.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser(
        "up", parents=[common], help="bring the cluster up; nothing to do if it is up and healthy"
    )
    up.add_argument(
        "--tier", choices=TIERS, default="node", help="control-plane: no pods, up in seconds (default: node)"
    )
    up.add_argument(
        "--pod-security",
        choices=("privileged", "baseline", "restricted"),
        default="",
        help="built cluster: Pod Security standard of namespaces that set none (default: none)",
    )
    up.add_argument(
        "--admission-plugin",
        default="",
        metavar="NAME",
        help="built cluster: enable an admission plugin that Kubernetes does not enable by itself",
    )
    verbs.add_parser("down", parents=[common], help="remove the cluster and all that belongs to it")
    verbs.add_parser("status", parents=[common], help="exit status 0: up and healthy; 1: not")
    kubeconfig = verbs.add_parser("kubeconfig", parents=[common], help="print the path of the kubeconfig")
    kubeconfig.add_argument(
        "--inside", action="store_true", help="the one for the cluster's network namespace"
    )
    run = verbs.add_parser(
        "exec", parents=[common], help="run a command in the cluster's network: exec -- CMD ..."
    )
    run.add_argument("command", nargs=argparse.REMAINDER)
    load = verbs.add_parser("load-image", parents=[common], help="make images known to the node")
    load.add_argument("images", nargs="+", metavar="IMAGE-OR-ARCHIVE")
    crash = verbs.add_parser(
        "crash", parents=[common], help="built cluster: SIGKILL a component (it starts again)"
    )
    crash.add_argument("component", metavar="COMPONENT")
    builder = verbs.add_parser("build", parents=[common], help="build the programs of the built cluster")
    builder.add_argument("--tier", choices=TIERS, default="node")
    verbs.add_parser("doctor", parents=[common], help="what is missing on this machine, and what to do")
    return root


def run(arguments: argparse.Namespace) -> int:
    verb = arguments.verb
    if verb == "doctor":
        return doctor.report(arguments.provider)
    if verb == "build":
        print(build.binaries_for(arguments.tier))
        return 0
    cluster = Cluster(arguments.name)
    chosen = provider.choose(cluster, arguments.provider, arguments.context)
    match verb:
        case "up":
            chosen.up(arguments.tier, Admission(arguments.pod_security, arguments.admission_plugin))
        case "down":
            chosen.down()
        case "status":
            well, lines = chosen.status()
            print(
                f"{cluster.name} ({chosen.name}): {lines[0]}", *(f"  {line}" for line in lines[1:]), sep="\n"
            )
            return 0 if well else 1
        case "kubeconfig":
            print(chosen.kubeconfig(inside=arguments.inside))
        case "exec":
            command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
            if not command:
                raise ToolError("exec: no command", "python3 hack/cluster exec -- kubectl get nodes")
            return chosen.run(command)
        case "load-image":
            for image in arguments.images:
                chosen.load(image)
        case "crash":
            chosen.crash(arguments.component)
    return 0


def main() -> int:
    try:
        return run(parser().parse_args())
    except ToolError as error:
        print(f"hack/cluster: {error}", file=sys.stderr)
        return 2
