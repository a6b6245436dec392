"""The images: which sources shape each, and the record of what was built from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from tools import cache

# An image carries the whole wheel, but is built again only for a change in the packages that it runs.
TARGETS = {
    "operator": ("operator", "agent_image/evolving_agent/contract"),
    "agent": ("agent_image",),
    "trainer": ("agent_image",),
    "model-server": ("model_server", "agent_image/evolving_agent/contract"),
}
LOCKS = {"model-server": ("model-server", "llama-cpp-python")}
ALWAYS = ("Dockerfile", "pyproject.toml", "requirements/build.lock", "hack/images/install_locked.py")


def version() -> str:
    """The project's version: the images' tag."""
    for line in (cache.REPOSITORY / "pyproject.toml").read_text(encoding="utf-8").splitlines():
        if line.startswith("version = "):
            return line.split('"')[1]
    raise AssertionError("pyproject.toml has no version")


def image_name(target: str) -> str:
    return f"localhost/evolving-agents/{target}:{version()}"


def _files(target: str) -> Iterator[Path]:
    locks = (f"requirements/{name}.lock" for name in LOCKS.get(target, (target,)))
    for name in (*ALWAYS, *locks):
        yield cache.REPOSITORY / name
    for name in TARGETS[target]:
        for path in sorted((cache.REPOSITORY / name).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def inputs_digest(target: str, base: str, torch_index: str) -> str:
    """Changes whenever the image would."""
    digest = hashlib.sha256(f"{base}\n{torch_index if target == 'trainer' else ''}\n".encode())
    for path in _files(target):
        digest.update(f"{path.relative_to(cache.REPOSITORY)}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class Built:
    """One built image; its archive lies beside the record."""

    target: str
    image: str
    inputs: str
    megabytes: int

    @property
    def archive(self) -> Path:
        return archive_path(self.target)

    def write(self) -> None:
        text = json.dumps(asdict(self), indent=1) + "\n"
        self.archive.with_suffix(".json").write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, target: str) -> Self | None:
        """What was built last for `target`, if its archive is still there."""
        archive = archive_path(target)
        try:
            record = cls(**json.loads(archive.with_suffix(".json").read_text(encoding="utf-8")))
        except (FileNotFoundError, TypeError, json.JSONDecodeError):
            return None
        return record if archive.exists() else None


def archive_path(target: str) -> Path:
    return cache.folder("images") / f"{target}.tar"
