"""The base image: the Dockerfile's from a registry, or a Debian with Python made here."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from images.builders import Builder
from tools import cache, debian, progress
from tools.errors import ToolError

SUITE = "bookworm"
MADE_HERE = f"localhost/evolving-agents/base:{SUITE}"
PACKAGES = ("ca-certificates", "python3", "python3-venv")
PULL_SECONDS = 120
# Documentation, translations and package lists: nothing that runs.
UNWANTED = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "var/lib/apt/lists")


def registry_image() -> str:
    """The Dockerfile's own default."""
    text = (cache.REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    found = re.search(r"^ARG BASE_IMAGE=(\S+)$", text, flags=re.MULTILINE)
    if not found:
        raise ToolError("the Dockerfile sets no default for BASE_IMAGE", "add `ARG BASE_IMAGE=…` before FROM")
    return found[1]


def _mirror() -> str:
    """The Debian mirror that this machine's own apt uses."""
    sources = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources if path.is_file())
    for line in text.splitlines():
        found = re.match(r"(?:URIs:|deb(?:\s+\[.*?\])?)\s+(https?://\S+/debian)/?(?:\s|$)", line)
        if found:
            return found[1]
    raise ToolError(
        "no registry answers, and apt names no Debian mirror here to make the base image from",
        "name an image that you have with --base",
    )


def _make(builder: Builder) -> None:
    if os.geteuid() != 0:
        todo = "run with sudo, or name an image that you have with --base"
        raise ToolError("no registry answers, and making the base image here needs root", todo)
    debian.ensure(debian.IMAGE_PACKAGES)
    todo = "see the log; the Debian mirror of this machine's apt must be reachable"
    with tempfile.TemporaryDirectory(dir=cache.folder("images"), prefix="base-") as scratch:
        root = Path(scratch, "root")
        options = ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
        command: list[str | Path] = ["debootstrap", *options, SUITE, root, _mirror()]
        progress.run("debootstrap", command, todo=todo)
        for name in UNWANTED:
            shutil.rmtree(root / name, ignore_errors=True)
        for archive in (root / "var/cache/apt/archives").glob("*.deb"):
            archive.unlink()
        sources = f"deb {_mirror()} {SUITE} main\n"
        (root / "etc/apt/sources.list").write_text(sources, encoding="utf-8")
        builder.import_root(root, MADE_HERE)


def base_image(builder: Builder) -> str:
    """The name of a base image that `builder` has now."""
    wanted = registry_image()
    if builder.layers(wanted):
        return wanted
    if builder.layers(MADE_HERE):
        return MADE_HERE
    with progress.step(f"pull {wanted}"):
        pulled = builder.pull(f"docker.io/library/{wanted}", PULL_SECONDS)
    if pulled:
        return wanted
    _make(builder)
    return MADE_HERE
