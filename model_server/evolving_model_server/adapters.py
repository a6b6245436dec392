"""Where adapters lie: `<directory>/<name>/adapter.gguf`.

A trainer writes beside the final place and renames the finished directory, so a directory with a proper
name is complete. A name never changes its content; whatever learned something new has a new name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ADAPTER_FILE = "adapter.gguf"
# No slash and no leading dot: a name is one path component, and unfinished directories begin with a dot.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,199}")


class AdapterRefusedError(ValueError):
    """An adapter's name or path that this server does not accept. The text says why."""


@dataclass(frozen=True)
class AdapterDirectory:
    root: Path

    def names(self) -> list[str]:
        """All complete adapters, sorted. A missing directory holds none: the volume may come later."""
        try:
            entries = [entry.name for entry in self.root.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in entries if self.find(name) is not None)

    def find(self, name: str) -> Path | None:
        """The file of the adapter with that name; None where there is none, whatever the name holds."""
        if _NAME.fullmatch(name) is None:
            return None
        file = self.root / name / ADAPTER_FILE
        if not file.is_file():
            return None
        root = self.root.resolve()
        return file if file.resolve().is_relative_to(root) else None  # a link may point out of the volume

    def require(self, name: str, path: str | None = None) -> Path:
        """The file of the adapter `name`, which is said to lie at `path` (absolute, or within the root).

        Raises AdapterRefusedError for a name or a path that cannot be, or where nothing lies.
        """
        if _NAME.fullmatch(name) is None:
            raise AdapterRefusedError(f"{name!r} is not a possible adapter name (letters, digits and ._:@+-)")
        expected = self.root / name
        if path is not None and (self.root / path).resolve() not in (
            expected.resolve(),
            (expected / ADAPTER_FILE).resolve(),
        ):
            raise AdapterRefusedError(f"lora_path must be {expected}, where this server finds {name!r} again")
        file = self.find(name)
        if file is None:
            raise AdapterRefusedError(f"there is no file {expected / ADAPTER_FILE}")
        return file
