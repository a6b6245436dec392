"""The images that every node needs, each one program in one layer, as OCI archives."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cluster.components import PAUSE_IMAGE

COREDNS_IMAGE = "localhost/evolving-agents/coredns:1"
ARCHITECTURE = "amd64"


@dataclass(frozen=True)
class ProgramImage:
    """An image with nothing but a static program in it."""

    reference: str
    program: str
    user: str


IMAGES = (ProgramImage(PAUSE_IMAGE, "pause", "65535:65535"), ProgramImage(COREDNS_IMAGE, "coredns", ""))


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _layer(program: Path) -> bytes:
    """A tar with the program at the root; the same program gives the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as layer:
        content = program.read_bytes()
        entry = tarfile.TarInfo(program.name)
        entry.size, entry.mode = len(content), 0o755
        layer.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def write_archive(image: ProgramImage, program: Path, target: Path) -> None:
    """Write the OCI archive of `image` with `program` in it."""
    layer = _layer(program)
    settings = {"Entrypoint": [str(PurePosixPath("/", program.name))], "User": image.user, "WorkingDir": "/"}
    rootfs = {"type": "layers", "diff_ids": [_digest(layer)]}
    config = _json({"architecture": ARCHITECTURE, "os": "linux", "config": settings, "rootfs": rootfs})
    oci = "application/vnd.oci.image"
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{oci}.manifest.v1+json",
            "config": {"mediaType": f"{oci}.config.v1+json", "digest": _digest(config), "size": len(config)},
            "layers": [{"mediaType": f"{oci}.layer.v1.tar", "digest": _digest(layer), "size": len(layer)}],
        }
    )
    entry = {
        "mediaType": f"{oci}.manifest.v1+json",
        "digest": _digest(manifest),
        "size": len(manifest),
        "platform": {"architecture": ARCHITECTURE, "os": "linux"},
        "annotations": {"org.opencontainers.image.ref.name": image.reference},
    }
    members = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": [entry]}),
    }
    members |= {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (config, layer, manifest)}
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))


def archives(programs: Path) -> list[Path]:
    """Where `write` puts the archives of a build."""
    return [programs / f"{image.program}.tar" for image in IMAGES]


def write(programs: Path) -> None:
    """Write the archive of each image from the program of its name in `programs`."""
    for image, target in zip(IMAGES, archives(programs), strict=True):
        write_archive(image, programs / image.program, target)
