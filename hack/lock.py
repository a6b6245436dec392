"""Writes the hashed locks in requirements/ from pyproject.toml: `python3 hack/lock.py`. Needs uv on PATH.

Run it after a change of the dependencies, or to take newer versions with `--upgrade`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LOCKS = {
    "operator": ["operator"],
    "agent": ["agent"],
    "trainer": ["agent", "trainer"],
    "model-server": ["model-server"],
    "dev": ["operator", "agent", "dev"],
}
BUILD_TOOLS = "pip\nhatchling>=1.27\n"  # what builds the wheel in the images
# What this machine's own pip and uv are set to look at must not shape a lock that everybody uses.
LOCAL_SETTINGS = (
    "PIP_",
    "UV_FIND_LINKS",
    "UV_EXTRA_INDEX_URL",
    "UV_NO_INDEX",
    "UV_OVERRIDE",
    "UV_CONSTRAINT",
)


def compile_lock(name: str, sources: list[str], environment: dict[str, str], stdin: str = "") -> None:
    target = Path("requirements") / f"{name}.lock"
    command = [
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"),
        *("--generate-hashes", "--no-emit-index-url", "--no-header", "--no-annotate"),
        *(*sources, "-o", str(target), *sys.argv[1:]),
    ]
    subprocess.run(command, check=True, cwd=REPOSITORY, env=environment, input=stdin, text=True)
    print(f"{target}: {(REPOSITORY / target).read_text().count('==')} packages")


def main() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LOCAL_SETTINGS)}
    Path(REPOSITORY / "requirements").mkdir(exist_ok=True)
    for name, extras in LOCKS.items():
        chosen = [argument for extra in extras for argument in ("--extra", extra)]
        compile_lock(name, [*chosen, "pyproject.toml"], environment)
    compile_lock("build", ["-"], environment, BUILD_TOOLS)


if __name__ == "__main__":
    main()
