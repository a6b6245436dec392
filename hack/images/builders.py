"""The programs that can build a Dockerfile: docker with an engine, podman, buildah; the first that works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools import cache, debian, progress
from tools.errors import ToolError

# The machine's certificate bundle, as an image under construction sees it. Not at the system's own path: a
# mount there breaks the ca-certificates package.
CERTIFICATES = "certificates"
CERTIFICATES_INSIDE = f"/run/secrets/{CERTIFICATES}"
BUILD_TODO = "see the log; the package index (PIP_INDEX_URL) and the Debian mirror must be reachable"


def machine_certificates() -> str:
    """The certificate bundle that this machine's pip is told to trust; empty when it trusts its own."""
    return next((path for name in ("PIP_CERT", "SSL_CERT_FILE") if (path := os.environ.get(name))), "")


@dataclass(frozen=True)
class Builder:
    """One builder's command lines. `words` of docker, podman and buildah differ in little more than these."""

    name: str
    build_command: Sequence[str]
    inspect_command: Sequence[str]
    layers_path: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def _output(self, *arguments: str, timeout: float | None = None) -> str | None:
        """What the builder prints; None when it fails or takes too long."""
        try:
            done = subprocess.run(
                [self.name, *arguments],
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                env=self._environment(),
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    def pull(self, image: str, timeout: float) -> bool:
        return self._output("pull", image, timeout=timeout) is not None

    def layers(self, image: str) -> list[str]:
        """The digests of the image's uncompressed layers; none when the builder does not have the image."""
        printed = self._output(*self.inspect_command, image)
        if printed is None:
            return []
        found = json.loads(printed)
        for key in self.layers_path:
            found = found[int(key)] if isinstance(found, list) else found[key]
        return [str(digest) for digest in found]

    def import_root(self, root: Path, image: str) -> None:
        """Make an image of one layer from a file tree."""
        todo = "see the log; free some disk space"
        if self.name == "buildah":
            container = (self._output("from", "scratch") or "").strip()
            for arguments in (
                ["add", "-q", container, root, "/"],
                ["commit", "-q", container, image],
                ["rm", container],
            ):
                progress.run(f"base: {arguments[0]}", ["buildah", *arguments], todo=todo)
            return
        packed = root.with_suffix(".tar")
        with tarfile.open(packed, "w") as archive:
            archive.add(root, arcname=".")
        progress.run("base: import", [self.name, "import", packed, image], todo=todo)

    def build(self, target: str, image: str, arguments: Mapping[str, str]) -> None:
        """Build one target of the Dockerfile; layers that did not change come from the builder's cache."""
        command: list[str | Path] = [self.name, *self.build_command, "--target", target, "--tag", image]
        certificates = machine_certificates()
        given = dict(arguments)
        if certificates:
            command += ["--secret", f"id={CERTIFICATES},src={certificates}"]
            given["PIP_CERT"] = CERTIFICATES_INSIDE
        if index := os.environ.get("PIP_INDEX_URL"):
            given["PIP_INDEX_URL"] = index
        for name, value in given.items():
            command += ["--build-arg", f"{name}={value}"]
        command.append(cache.REPOSITORY)
        before = self._identity(image)
        progress.run(
            f"image {target}", command, todo=BUILD_TODO, env=self._environment(), log=f"image-{target}"
        )
        if before and before != self._identity(image):
            # It lost its name and would stay for good: gigabytes with each change of the trainer.
            self._output("rmi", before)

    def _identity(self, image: str) -> str:
        return (self._output("images", "--quiet", "--no-trunc", image) or "").strip()

    def export(self, image: str, archive: Path) -> None:
        """Write the image as an archive that a node can import.

        In Docker's format: the builders compress the layers of an OCI archive, which costs minutes for
        gigabytes that are read once, on this machine.
        """
        unfinished = archive.with_suffix(".part")
        unfinished.unlink(missing_ok=True)
        save = ["save", "--output", unfinished, image]
        push = ["push", image, f"docker-archive:{unfinished}:{image}"]
        command = [self.name, *(push if self.name == "buildah" else save)]
        todo = "see the log; is the disk full?"
        progress.run(f"archive {archive.stem}", command, todo=todo, env=self._environment(), log="archive")
        unfinished.rename(archive)


DOCKER = Builder(
    "docker",
    build_command=("buildx", "build", "--load"),
    inspect_command=("image", "inspect"),
    layers_path=("0", "RootFS", "Layers"),
)
# No container runtime is needed then, so it works in a container and whatever the machine's cgroups are.
NO_RUNTIME = {"BUILDAH_ISOLATION": "chroot"}
PODMAN = Builder(
    "podman",
    build_command=("build", "--layers", "--network", "host"),
    inspect_command=("image", "inspect"),
    layers_path=("0", "RootFS", "Layers"),
    environment=NO_RUNTIME,
)
BUILDAH = Builder(
    "buildah",
    build_command=("build", "--layers", "--network", "host"),
    inspect_command=("inspect", "--type", "image"),
    layers_path=("OCIv1", "rootfs", "diff_ids"),
    environment=NO_RUNTIME,
)


def _engine_answers() -> bool:
    command = ["docker", "version", "--format", "{{.Server.Version}}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    return done.returncode == 0 and bool(done.stdout.strip())


def choose() -> Builder:
    """The first builder that works here; buildah is installed where this user may."""
    if shutil.which("docker") and _engine_answers():
        return DOCKER
    if shutil.which("podman"):
        return PODMAN
    if not shutil.which("buildah"):
        debian.ensure(debian.IMAGE_PACKAGES)
    if shutil.which("buildah"):
        return BUILDAH
    raise ToolError("nothing here can build images", "start a Docker engine, or install podman or buildah")
