"""Debian packages that the developer tools need on the machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools import cache, progress
from tools.errors import ToolError
from tools.locks import lock
from tools.once import made_once

_CONTROL_PLANE = ("iproute2", "openssl", "procps", "util-linux")
CLUSTER_PACKAGES = {
    "control-plane": _CONTROL_PLANE,
    "node": (*_CONTROL_PLANE, "conntrack", "ethtool", "iptables", "kmod", "mount", "nftables"),
}
BUILD_PACKAGES = ("binutils", "gcc", "libc6-dev", "libseccomp-dev", "pkg-config")
IMAGE_PACKAGES = ("buildah", "crun", "debootstrap", "fuse-overlayfs")

# The configuration of the machine's own services must not be asked for in the middle of a build.
_ENVIRONMENT = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}


def missing(packages: Iterable[str]) -> list[str]:
    """Those of `packages` that are not installed; all of them where there is no dpkg to ask."""
    names = list(packages)
    if not shutil.which("dpkg-query"):
        return names
    shown = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *names],
        capture_output=True,
        text=True,
        check=False,
    )
    installed = {line.split()[0] for line in shown.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in names if name not in installed]


def ensure(packages: Iterable[str]) -> None:
    """Install what is missing. Raises ToolError where this user or this system cannot."""
    names = list(packages)
    if not missing(names):
        return
    # apt-get gives up where another one is at work.
    with lock("apt"):
        if names := missing(names):
            _install(names)


def _install(names: Sequence[str]) -> None:
    wanted = " ".join(names)
    if not shutil.which("apt-get"):
        raise ToolError(
            f"programs are missing: {wanted} (Debian's names)", "install them with this system's packager"
        )
    if os.geteuid() != 0:
        raise ToolError(f"Debian packages are missing: {wanted}", f"sudo apt-get install {wanted}")
    todo = "see the log; `apt-get update` must reach a Debian mirror"
    progress.run("apt update", ["apt-get", "update", "-q"], todo=todo, env=_ENVIRONMENT)
    install = ["apt-get", "install", "-y", "--no-install-recommends", *names]
    progress.run(f"apt install {wanted}", install, todo=todo, env=_ENVIRONMENT)


def unpacked(package: str) -> Path:
    """The files of a Debian package in the cache, without installing it."""

    def unpack(target: Path) -> None:
        downloads = cache.folder("debian", "downloads")
        todo = "see the log; `apt-get update` must reach a Debian mirror"
        # apt-get downloads as a user of its own where it can, and that user cannot write here.
        download = ["apt-get", "-o", "APT::Sandbox::User=root", "download", package]
        progress.run(f"download {package}", download, todo=todo, cwd=downloads)
        archive = max(downloads.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
        progress.run(f"unpack {package}", ["dpkg", "-x", archive, target], todo="free some disk space")
        archive.unlink()

    return made_once(cache.folder("debian") / package, unpack)
