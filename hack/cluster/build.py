"""Builds the cluster's programs from source and its own images; a finished build is never repeated."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster import node_image
from cluster.versions import CNI_PLUGINS, CONTAINERD, COREDNS, GO, KUBELITE, RUNC, build_key
from tools import cache, debian, go, progress
from tools.errors import ToolError
from tools.locks import lock

KUBERNETES_PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
)
COLD_BUILD_GB = 25
WARM_BUILD_GB = 3
PROXY_TODO = "see the log; the Go module proxy must be reachable (GOPROXY names another one), and memory free"


def _folder() -> Path:
    return cache.folder("programs", build_key())


def is_built(tier: str) -> bool:
    """Whether `binaries_for(tier)` would return at once."""
    return (_folder() / f".{tier}").exists()


def _check_disk(toolchain: Path) -> None:
    modules = Path(go.setting(toolchain, "GOMODCACHE"))
    compiled = Path(go.setting(toolchain, "GOCACHE"))
    warm = (modules / "k8s.io").is_dir() and compiled.is_dir()
    needed = WARM_BUILD_GB if warm else COLD_BUILD_GB
    place = next(path for path in (compiled, *compiled.parents) if path.exists())
    free = shutil.disk_usage(place).free / 1e9
    if free < needed:
        raise ToolError(
            f"the build needs about {needed} GB for Go's caches; {place} has {free:.1f} GB free",
            "free some space, or point GOCACHE, GOMODCACHE and XDG_CACHE_HOME at a larger disk",
        )


def _environment(cgo: bool) -> dict[str, str]:
    return {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "CGO_ENABLED": "1" if cgo else "0"}


def _count_packages(
    toolchain: Path, packages: Sequence[str], cwd: Path, env: Mapping[str, str]
) -> int | None:
    """How many packages a build would compile at most."""
    listed = subprocess.run(
        [toolchain, "list", "-deps", *packages], capture_output=True, text=True, cwd=cwd, env=env, check=False
    )
    return len(listed.stdout.splitlines()) or None


def _is_package(line: str) -> bool:
    """`go build -v` prints the import path of each package that it compiles."""
    return " " not in line.strip() and not line.startswith("go:")


def _build_kubelite(toolchain: Path, target: Path) -> None:
    env = _environment(cgo=False) | {"GOFLAGS": "-mod=readonly"}
    with progress.step("Kubernetes: modules"):
        shown = subprocess.run(
            [toolchain, "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"],
            capture_output=True,
            text=True,
            cwd=KUBELITE,
            env=env,
            check=False,
        )
        if shown.returncode:
            raise ToolError(f"Go cannot read {KUBELITE / 'go.mod'}: {shown.stderr.strip()}", PROXY_TODO)
        total = _count_packages(toolchain, ["."], KUBELITE, env)
    version = shown.stdout.strip()
    major, minor = version.removeprefix("v").split(".")[:2]
    stamps = {
        "gitVersion": version,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "modules",
        "buildDate": "2026-01-01T00:00:00Z",  # fixed: the same sources give the same bytes
    }
    linked = ["-s", "-w"]
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        linked += [f"-X {package}.{name}={value}" for name, value in stamps.items()]
    output = target / "kubelite.part"
    command: list[str | Path] = [
        toolchain,
        "build",
        "-v",
        "-trimpath",
        "-ldflags",
        " ".join(linked),
        "-o",
        output,
        ".",
    ]
    progress.run(
        f"Kubernetes {version}: compile",
        command,
        todo=PROXY_TODO,
        total=total,
        counts=_is_package,
        cwd=KUBELITE,
        env=env,
        log="kubernetes",
    )
    output.rename(target / "kubelite")
    for name in KUBERNETES_PROGRAMS:
        link = target / name
        link.unlink(missing_ok=True)
        link.symlink_to("kubelite")


def _install(
    toolchain: Path,
    name: str,
    packages: Sequence[str],
    target: Path,
    *,
    flags: Sequence[str] = (),
    stamp: str = "",
    cgo: bool = False,
) -> None:
    env = _environment(cgo) | {"GOBIN": str(target)}
    env.pop("GOFLAGS")
    linked = f"-s -w {stamp}".strip()
    # Outside any module: `go install package@version` takes the versions that the program itself pins.
    command: list[str | Path] = [
        toolchain,
        "install",
        "-v",
        "-trimpath",
        *flags,
        "-ldflags",
        linked,
        *packages,
    ]
    progress.run(f"{name}: compile", command, todo=PROXY_TODO, cwd=Path("/"), env=env)


def _build_node_programs(toolchain: Path, target: Path) -> None:
    debian.ensure(debian.BUILD_PACKAGES)
    _install(
        toolchain,
        "runc",
        [f"github.com/opencontainers/runc@{RUNC}"],
        target,
        flags=["-tags", "seccomp"],
        stamp=f"-X main.version={RUNC.removeprefix('v')}",
        cgo=True,
    )
    containerd = "github.com/containerd/containerd/v2"
    _install(
        toolchain,
        "containerd",
        [
            f"{containerd}/cmd/{name}@{CONTAINERD}"
            for name in ("containerd", "containerd-shim-runc-v2", "ctr")
        ],
        target,
        flags=["-tags", "no_btrfs no_devmapper no_zfs"],
        stamp=f"-X {containerd}/version.Version={CONTAINERD}",
    )
    plugins = "github.com/containernetworking/plugins"
    names = ("main/bridge", "main/loopback", "ipam/host-local", "meta/portmap")
    _install(
        toolchain,
        "network-plugins",
        [f"{plugins}/plugins/{name}@{CNI_PLUGINS}" for name in names],
        target / "cni",
        stamp=f"-X {plugins}/pkg/utils/buildversion.BuildVersion={CNI_PLUGINS}",
    )
    _install(toolchain, "coredns", [f"github.com/coredns/coredns@{COREDNS}"], target)
    _build_pause(toolchain, target)


def _build_pause(toolchain: Path, target: Path) -> None:
    """The process that holds a pod's namespaces: Kubernetes' own source, one C file."""
    shown = subprocess.run(
        [toolchain, "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"],
        capture_output=True,
        text=True,
        cwd=KUBELITE,
        env=_environment(cgo=False) | {"GOFLAGS": "-mod=readonly"},
        check=True,
    )
    source = Path(shown.stdout.strip()) / "build" / "pause" / "linux" / "pause.c"
    compile_pause: list[str | Path] = [
        "gcc",
        "-Os",
        "-static",
        "-s",
        "-DVERSION=local",
        "-o",
        target / "pause",
        source,
    ]
    progress.run("pause: compile", compile_pause, todo="see the log; install gcc and libc6-dev")


def binaries_for(tier: str) -> Path:
    """The folder with every program that `tier` needs, built now if it is not there yet."""
    target = _folder()
    if is_built(tier):
        return target
    with lock("build"):
        toolchain = go.toolchain(GO)
        _check_disk(toolchain)
        if not is_built("control-plane"):
            _build_kubelite(toolchain, target)
            (target / ".control-plane").touch()
        if tier == "node" and not is_built("node"):
            _build_node_programs(toolchain, target)
            node_image.write(target)
            (target / ".node").touch()
    return target


def node_images() -> list[Path]:
    """The archives of the images that every node needs."""
    return node_image.archives(binaries_for("node"))
