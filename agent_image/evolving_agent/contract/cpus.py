"""How many CPUs a container may use: the same count for the trainer and for the model server."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def usable_cpus(limit: Path = CGROUP_LIMIT) -> int:
    """The affinity mask's CPUs, cut down to the container's CPU limit; at least one.

    Libraries count the machine's CPUs instead: with 64 threads on a limit of two, they mostly wait.
    """
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = limit.read_text().split()
    except (OSError, ValueError):  # no cgroup v2: nothing is known of a limit
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, int(quota) // int(period)))
