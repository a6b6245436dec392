"""Brings images to the node: from the project's own builds, a local builder, or an archive."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from cluster.components import CONTAINERD_SOCKET
from cluster.layout import Cluster
from cluster.processes import inside
from tools import cache, progress
from tools.errors import ToolError


def _read(archive: tarfile.TarFile, name: str) -> Any:
    """A JSON member; KeyError when there is none of that name."""
    member = archive.extractfile(name)
    assert member is not None  # None is for members that are not files
    return json.load(member)


def _identities(archive: Path) -> dict[str, str]:
    """Image name -> digest of its manifest (OCI archive) or of its configuration (Docker archive)."""
    try:
        with tarfile.open(archive) as members:
            if "index.json" not in members.getnames():
                saved: list[dict[str, Any]] = _read(members, "manifest.json")
                return {name: entry["Config"] for entry in saved for name in entry["RepoTags"]}
            manifests = _read(members, "index.json")["manifests"]
    except (KeyError, tarfile.TarError) as error:
        todo = "make one with `docker save` or `buildah push … docker-archive:FILE:NAME`"
        raise ToolError(f"{archive} is no image archive: {str(error).splitlines()[0]}", todo) from None
    keys = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
    annotated = {entry["digest"]: entry.get("annotations", {}) for entry in manifests}
    return {notes.get(keys[0]) or notes.get(keys[1], ""): digest for digest, notes in annotated.items()}


def _ctr(cluster: Cluster, *arguments: str) -> list[str]:
    return inside(cluster, ["ctr", "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", *arguments])


def _known(cluster: Cluster) -> dict[str, str]:
    """Image name -> digest of everything that the node has."""
    listed = subprocess.run(_ctr(cluster, "images", "list"), capture_output=True, text=True, check=False)
    if listed.returncode:
        raise ToolError(
            f"{cluster.name} has no container runtime: {listed.stderr.strip()}",
            f"python3 hack/cluster up --name {cluster.name} --tier node",
        )
    rows = [line.split() for line in listed.stdout.splitlines()[1:]]
    return {row[0]: row[2] for row in rows if len(row) > 2}


def load_archive(cluster: Cluster, archive: Path) -> None:
    """Import an archive, unless these very images came from one before and the node still has them."""
    wanted = _identities(archive)
    record = cluster.state / "loaded-images.json"
    loaded = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    known = _known(cluster)
    if wanted and all(loaded.get(name) == [digest, known.get(name)] for name, digest in wanted.items()):
        return
    log_path = cache.log_file("load-image")
    # Through standard input: the node's own mounts may hide the archive's path. --local: the import is then
    # ctr's own work, and ctr knows every archive format. The packed layers are not kept beside the unpacked
    # ones: gigabytes for an image with torch.
    command = _ctr(cluster, "images", "import", "--local", "--discard-unpacked-layers", "-")
    with progress.step(f"load {archive.name}"), archive.open("rb") as source, log_path.open("ab") as log:
        imported = subprocess.run(command, stdin=source, stdout=log, stderr=log, check=False)
    if imported.returncode:
        raise ToolError(
            f"{archive} was not imported; log: {log_path}", "check free disk space and the archive"
        )
    known = _known(cluster)
    loaded |= {name: [identity, known.get(name)] for name, identity in wanted.items()}
    record.write_text(json.dumps(loaded, indent=1) + "\n", encoding="utf-8")
    _drop_replaced(cluster, known)


def _drop_replaced(cluster: Cluster, known: dict[str, str]) -> None:
    """Forget images that lost their name to a newer one; by its ID alone each would be kept for good."""
    named = {digest for name, digest in known.items() if not name.startswith("sha256:")}
    replaced = [name for name, digest in known.items() if name.startswith("sha256:") and digest not in named]
    if replaced:
        subprocess.run(_ctr(cluster, "images", "remove", *replaced), capture_output=True, check=False)


def _recorded_archive(image: str) -> Path | None:
    """The archive of an image that `hack/images build` made."""
    for record in (cache.root() / "images").glob("*.json"):
        if json.loads(record.read_text(encoding="utf-8")).get("image") == image:
            archive = record.with_suffix(".tar")
            return archive if archive.exists() else None
    return None


def _exported(image: str) -> Path | None:
    """An archive made now from the first local builder that has the image."""
    target = cache.folder("exports") / f"{image.replace('/', '_').replace(':', '_')}.tar"
    exports = {
        "buildah": ["push", "--quiet", image, f"docker-archive:{target}:{image}"],
        "podman": ["save", "--quiet", "--output", str(target), image],
        "docker": ["save", "--output", str(target), image],
    }
    for builder, arguments in exports.items():
        if not shutil.which(builder):
            continue
        target.unlink(missing_ok=True)
        with progress.step(f"{builder}: look for {image}"):
            done = subprocess.run([builder, *arguments], capture_output=True, check=False)
        if done.returncode == 0:
            return target
    return None


def archive_of(image: str) -> Path:
    """An archive for an image name or a path. Raises ToolError when there is neither."""
    if (path := Path(image)).is_file():
        return path
    if archive := _recorded_archive(image) or _exported(image):
        return archive
    raise ToolError(
        f"{image} is neither an archive nor an image of buildah, podman or docker here",
        "build it first (python3 hack/images build), or name an archive",
    )


def load(cluster: Cluster, image: str) -> None:
    """Make the image known to the node of a built cluster."""
    load_archive(cluster, archive_of(image))
