"""Fills /opt/venv of an image from a hashed lock: `install_locked.py LOCK [--torch-index URL]`. Runs in the builder.

Only the libraries stay: tests, headers, static libraries and the like go, and what is left is compiled to bytecode,
because the images run on a read-only file system.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VENV = Path("/opt/venv")
UNWANTED_FOLDERS = ("tests", "test", "include", "cmake", "pkgconfig")
UNWANTED_SUFFIXES = (".a", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".pxd", ".pyi", ".pyx")
# What torch of another index brings itself, or does without.
TORCH_STACK = re.compile(r"(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==(\S+)")


def pip(*arguments: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(VENV / "bin" / "python"),
        "install",
        "--no-compile",
    ]
    subprocess.run([*command, "--quiet", "--no-deps", *arguments], check=True)


def entries(lock: str) -> list[str]:
    """The lock's requirements, each with the hashes on the lines that continue it."""
    return re.findall(r"^(?=[A-Za-z0-9])(?:.*\\\n)*.*$", lock, flags=re.MULTILINE)


def install(lock: Path, torch_index: str) -> None:
    wanted = entries(lock.read_text(encoding="utf-8"))
    if torch_index:
        stack = {found[1]: found[2] for entry in wanted if (found := TORCH_STACK.match(entry))}
        wanted = [entry for entry in wanted if not TORCH_STACK.match(entry)]
        # No hash: the lock cannot know the files of an index that only this build names.
        pip("--index-url", torch_index, f"torch=={stack['torch']}")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as chosen:
        chosen.write("\n".join(wanted) + "\n")
        chosen.flush()
        pip("--require-hashes", "-r", chosen.name)


def trim(libraries: Path) -> None:
    """Remove what no program reads at run time."""
    for folder, names, files in os.walk(libraries):
        for name in [name for name in names if name in UNWANTED_FOLDERS]:
            # A package may be called "test" and mean it: only folders with a package above them are its tests.
            if Path(folder) != libraries or name in ("include", "cmake"):
                shutil.rmtree(Path(folder, name))
                names.remove(name)
        for name in files:
            if name.endswith(UNWANTED_SUFFIXES):
                Path(folder, name).unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lock", type=Path)
    parser.add_argument("--torch-index", default="")
    arguments = parser.parse_args()
    install(arguments.lock, arguments.torch_index)
    (libraries,) = VENV.glob("lib/python3*/site-packages")
    trim(libraries)
    # Unchecked: nobody edits the sources in an image, so Python need not compare them at each start.
    compiling = [
        "-m",
        "compileall",
        "-q",
        "-j",
        "0",
        "--invalidation-mode",
        "unchecked-hash",
        str(VENV / "lib"),
    ]
    # Some packages carry templates and files for newer Pythons that do not compile: that is no failure.
    subprocess.run([str(VENV / "bin" / "python"), *compiling], check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
