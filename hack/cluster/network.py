"""The cluster's network namespace: a node address, routes for services, and no way out."""

from __future__ import annotations

import subprocess

from cluster.layout import NODE_IP, SERVICE_CIDR, Cluster


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def remove(cluster: Cluster) -> None:
    """Delete the namespace and with it every interface and rule in it; nothing to do when it is not there."""
    if cluster.netns.exists():
        _ip("netns", "del", cluster.full_name)


def create(cluster: Cluster) -> None:
    """A fresh namespace. It has no uplink: what runs in it reaches only what runs in it."""
    remove(cluster)
    _ip("netns", "add", cluster.full_name)
    inside = ("-n", cluster.full_name)
    _ip(*inside, "link", "set", "lo", "up")
    # A bridge without ports stands in for a "dummy" link, which not every kernel has.
    _ip(*inside, "link", "add", "node0", "type", "bridge")
    _ip(*inside, "addr", "add", f"{NODE_IP}/24", "dev", "node0")
    _ip(*inside, "link", "set", "node0", "up")
    # Routing happens before the nat hook sees a local connection: without this route a connection from the
    # node to a ClusterIP fails before kube-proxy's rules can translate it.
    _ip(*inside, "route", "add", SERVICE_CIDR, "dev", "node0", "src", NODE_IP)
    _ip(*inside, "route", "add", "unreachable", "default")
    forwarding = (
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.default.rp_filter=0",
    )
    _ip("netns", "exec", cluster.full_name, "sysctl", "-qw", *forwarding)
