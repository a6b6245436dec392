"""The built cluster: real Kubernetes components in namespaces of their own on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from cluster import addons, build, certificates, components, host, network
from cluster.api import Api
from cluster.layout import API_PORT, NODE, TIERS, Admission, Cluster, known_clusters
from cluster.processes import Running, last_started, need_root, running
from tools import debian
from tools.errors import ToolError
from tools.locks import lock
from tools.progress import step

READY_SECONDS = 180.0
PROVISIONED = Path("/tmp/hostpath_pv")  # where supervisor.py mounts the volumes


def _free_listener(wanted: int) -> socket.socket:
    """A listening socket on the machine's loopback, on the wanted port when it is free."""
    for port in dict.fromkeys((wanted, 0)):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            listener.close()
            continue
        listener.listen(256)
        return listener
    raise ToolError("no free port on 127.0.0.1", "stop programs that hold ports open, then try again")


def _first_child(pid: int) -> int:
    """The process that `unshare --fork` made: PID 1 of the new namespace."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if text := children.read_text().split():
                return int(text[0])
        time.sleep(0.02)
    raise ToolError(
        "the cluster's first process did not start", "see `doctor`: namespaces may be forbidden here"
    )


def _wait(cluster: Cluster, name: str, condition: Callable[[], bool], pid: int) -> None:
    with step(name):
        deadline = time.monotonic() + READY_SECONDS
        while not condition():
            if host.start_time(pid) is None:
                tail = (cluster.logs / "supervisor.log").read_text(errors="replace").strip()[-500:]
                raise ToolError(
                    f"{cluster.name}: the cluster ended while starting: {tail}", f"look into {cluster.logs}"
                )
            if time.monotonic() > deadline:
                raise ToolError(
                    f"{cluster.name}: {name}: not after {READY_SECONDS:.0f} s",
                    f"look into {cluster.logs}/*.log",
                )
            time.sleep(0.1)


def _node_is_ready(api: Api, since: float = 0.0) -> bool:
    """Whether the node is ready, as told by its kubelet after `since` (seconds since the epoch).

    The kubelet of a restarted cluster finds what its predecessor told: that alone proves nothing.
    """
    status, node = api.get(f"/api/v1/nodes/{NODE}")
    conditions = node["status"].get("conditions", []) if status == 200 else []
    return any(
        item["type"] == "Ready"
        and item["status"] == "True"
        and datetime.fromisoformat(item["lastHeartbeatTime"]).timestamp() >= since
        for item in conditions
    )


def healthy(cluster: Cluster, record: Running) -> bool:
    """Whether the API server is ready and, with a node, whether the node is."""
    api = Api(cluster.kubeconfig)
    return api.ready() and (record.tier != "node" or _node_is_ready(api))


def stop(cluster: Cluster) -> None:
    """End every process of the cluster and remove what the kernel holds for it; keeps its state."""
    if record := running(cluster):
        # PID 1 of the pid namespace: the kernel ends everything in the namespace with it.
        os.kill(record.pid, signal.SIGKILL)
        pids = [record.pid]
    else:
        # The record is gone or stale: whoever is still in the namespace belongs to a cluster that crashed.
        found = subprocess.run(
            ["ip", "netns", "pids", cluster.full_name], capture_output=True, text=True, check=False
        )
        pids = [int(pid) for pid in found.stdout.split()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 15
    while any(host.start_time(pid) is not None for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    network.remove(cluster)
    host.remove_cgroup(cluster)


def _start(cluster: Cluster, binaries: Path, tier: str, admission: Admission) -> Running:
    before = last_started(cluster)
    cluster.state.mkdir(parents=True, exist_ok=True)
    cluster.state.parent.chmod(0o700)
    certificates.make_certificates(cluster, API_PORT)
    components.write_files(cluster, binaries, tier, admission, restarted=before is not None)
    network.create(cluster)
    if tier == "node":
        with lock("machine"):
            host.save_kernel_settings()
        host.create_cgroup(cluster)
    with _free_listener(before.port if before else 0) as listener:
        port = int(listener.getsockname()[1])
        # nsenter, not `ip netns exec`: that one replaces /sys, and the cgroups would be out of reach.
        command = [
            *("nsenter", f"--net={cluster.netns}"),
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, "-I", str(Path(__file__).with_name("supervisor.py"))),
            *(str(cluster.state / "supervisor.json"), str(listener.fileno())),
        ]
        with (cluster.logs / "supervisor.log").open("ab") as log:
            outer = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                pass_fds=[listener.fileno()],
            )
        pid = _first_child(outer.pid)
    record = Running(
        pid=pid,
        started=host.start_time(pid) or 0,
        tier=tier,
        pod_security=admission.pod_security,
        port=port,
        binaries=str(binaries),
        admission_plugin=admission.plugin,
    )
    certificates.write_kubeconfig(cluster, "admin", port, cluster.kubeconfig)
    certificates.write_kubeconfig(cluster, "admin", API_PORT, cluster.kubeconfig_inside)
    cluster.record.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    outer.returncode = 0  # it outlives this program: nobody here waits for it
    return record


def _wait_until_up(cluster: Cluster, record: Running, since: float) -> None:
    api = Api(cluster.kubeconfig)
    _wait(cluster, "API server ready", api.ready, record.pid)
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    _wait(cluster, "default service account", lambda: api.get(account)[0] == 200, record.pid)
    if record.tier == "node":
        socket_inside = Path(f"/proc/{record.pid}/root{components.CONTAINERD_SOCKET}")
        _wait(cluster, "container runtime", socket_inside.exists, record.pid)
        _wait(cluster, "node ready", lambda: _node_is_ready(api, since), record.pid)
        addons.install(cluster)
        _wait(cluster, "cluster DNS ready", lambda: addons.dns_is_ready(api), record.pid)


def up(cluster: Cluster, tier: str, admission: Admission) -> None:
    """Bring the cluster up, whatever state it is in; nothing to do when it is up and healthy."""
    need_root()
    with lock(f"cluster-{cluster.name}"):
        record = running(cluster)
        if record:
            tier = max(tier, record.tier, key=TIERS.index)
            same = (record.tier, record.admission) == (tier, admission)
            if same and healthy(cluster, record):
                print(f"{cluster.name}: already up ({record.tier})")
                return
        binaries = build.binaries_for(tier)
        if record or last_started(cluster):
            doing = "restarting" if record else "was not running: starting"
            print(f"{cluster.name}: {doing} with its state kept")
        debian.ensure(debian.CLUSTER_PACKAGES[tier])
        stop(cluster)
        since = time.time() // 1  # the API's timestamps have whole seconds
        _wait_until_up(cluster, _start(cluster, binaries, tier, admission), since)
    print(f"{cluster.name}: up ({tier})")


def down(cluster: Cluster) -> None:
    """Remove the cluster: processes, namespaces, mounts, cgroups, state."""
    need_root()
    with lock(f"cluster-{cluster.name}"):
        stop(cluster)
        shutil.rmtree(cluster.state, ignore_errors=True)
    with lock("machine"):
        if not any(running(other) for other in known_clusters()):
            host.restore_kernel_settings()
            # Only now: removing a folder that another cluster has mounted over would take its mount away.
            with contextlib.suppress(OSError):
                PROVISIONED.rmdir()
    print(f"{cluster.name}: down")


def status(cluster: Cluster) -> tuple[bool, list[str]]:
    """Whether the cluster is up and healthy, and what to tell about it."""
    record = running(cluster)
    if not record:
        kept = last_started(cluster)
        return False, ["not running; its state is kept: `up` starts it again" if kept else "not there"]
    well = healthy(cluster, record)
    lines = [
        f"{'healthy' if well else 'NOT healthy'}, {record.tier}, pid {record.pid}",
        f"server      https://127.0.0.1:{record.port}",
        f"kubeconfig  {cluster.kubeconfig}",
        f"inside      {cluster.kubeconfig_inside} (in network namespace {cluster.full_name})",
        f"kubectl     {Path(record.binaries) / 'kubectl'}",
        f"logs        {cluster.logs}",
        f"audit log   {cluster.audit_log}",
    ]
    return well, lines
