"""What a built cluster touches outside its own namespaces: cgroups and kernel settings."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from cluster.layout import Cluster
from tools import cache

CGROUPS = Path("/sys/fs/cgroup")
# kubelet and kube-proxy set these for the whole machine.
KERNEL_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def _cgroup_parents() -> list[Path]:
    """The folder of each hierarchy: one for cgroup v2, one per controller for v1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    # In a mixed setup the "unified" hierarchy has no controllers, so kubelet does not look there.
    return [
        path
        for path in CGROUPS.iterdir()
        if path.is_dir() and not path.is_symlink() and path.name != "unified"
    ]


def create_cgroup(cluster: Cluster) -> None:
    """The cgroup under which kubelet puts every pod of this cluster."""
    for parent in _cgroup_parents():
        if parent == CGROUPS:
            controllers = (CGROUPS / "cgroup.controllers").read_text().split()
            (CGROUPS / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))
        group = parent / cluster.full_name
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # A new v1 cpuset is empty, and nothing can join an empty one.
            if (
                parent.name == "cpuset"
                and (group / setting).exists()
                and not (group / setting).read_text().strip()
            ):
                (group / setting).write_text((parent / setting).read_text())


def remove_cgroup(cluster: Cluster) -> None:
    """Remove the cluster's cgroups, once its processes are gone; the kernel may need a moment to notice."""
    # In a mixed setup the container runtime makes one in the "unified" hierarchy, too.
    groups = [parent / cluster.full_name for parent in {*_cgroup_parents(), CGROUPS / "unified"}]
    deadline = time.monotonic() + 5
    while any(group.is_dir() for group in groups) and time.monotonic() < deadline:
        for group in groups:
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        time.sleep(0.05)


def _saved_settings() -> Path:
    return cache.root() / "kernel-settings.json"


def save_kernel_settings() -> None:
    """Remember the machine's values before the first cluster changes them."""
    if _saved_settings().exists():
        return
    values = {name: Path("/proc/sys", name).read_text().strip() for name in KERNEL_SETTINGS}
    _saved_settings().write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def restore_kernel_settings() -> None:
    """Put the values back; for the last cluster to go."""
    if not _saved_settings().exists():
        return
    for name, value in json.loads(_saved_settings().read_text(encoding="utf-8")).items():
        with contextlib.suppress(OSError):
            Path("/proc/sys", name).write_text(value)
    _saved_settings().unlink()


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; with the ID it names a process for good."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])
