"""The versions of everything that is built, and the cache key they make."""

from __future__ import annotations

import hashlib
from pathlib import Path

# Kubernetes and etcd are pinned by kubelite/go.mod.
RUNC = "v1.5.2"
CONTAINERD = "v2.4.2"
CNI_PLUGINS = "v1.9.1"
COREDNS = "v1.14.6"
GO = (1, 26, 6)  # the oldest Go that containerd's module accepts

KUBELITE = Path(__file__).resolve().parent / "kubelite"


def build_key() -> str:
    """Changes whenever a binary would: the name of the folder that holds the finished build."""
    digest = hashlib.sha256("\n".join((RUNC, CONTAINERD, CNI_PLUGINS, COREDNS)).encode())
    for name in ("main.go", "go.mod", "go.sum"):
        digest.update((KUBELITE / name).read_bytes())
    return digest.hexdigest()[:12]
