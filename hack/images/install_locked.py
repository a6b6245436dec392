"""Fills /opt/venv of an image from a hashed lock. Runs in the builder stage of the Dockerfile.

    install_locked.py LOCK [--wheels FOLDER] [--torch-index URL]

Only the libraries stay: tests, headers, static libraries and the like go, and what is left is compiled
to bytecode, because the images run on a read-only file system.
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
# Torch and what only its CUDA build needs: another index has builds that do without.
TORCH_STACK = re.compile(r"torch|triton|nvidia-.*|cuda-.*")


def pip(*arguments: str | Path) -> None:
    into: list[str | Path] = [
        "--python",
        VENV / "bin" / "python",
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
    ]
    subprocess.run([sys.executable, "-m", "pip", *into, *arguments], check=True)


def entries(lock: str) -> dict[str, str]:
    """Package -> its requirement, with the hashes on the lines that continue it."""
    found = re.findall(r"^(?=[A-Za-z0-9])(?:.*\\\n)*.*$", lock, flags=re.MULTILINE)
    # A package may come twice, with other versions for other Pythons: the markers choose.
    names: dict[str, str] = {}
    for entry in found:
        name = entry.partition("==")[0]
        names[name] = f"{names[name]}\n{entry}" if name in names else entry
    return names


def install(lock: Path, wheels: list[Path], torch_index: str) -> None:
    wanted = entries(lock.read_text(encoding="utf-8"))
    if wheels:
        # Built a moment ago from sources whose hashes were checked then.
        pip(*wheels)
        for wheel in wheels:
            del wanted[wheel.name.partition("-")[0].replace("_", "-")]
    if torch_index:
        torch = wanted["torch"].split()[0]
        # No hash: the lock cannot know the files of an index that only this build names.
        pip("--index-url", torch_index, torch)
        wanted = {name: entry for name, entry in wanted.items() if not TORCH_STACK.fullmatch(name)}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as chosen:
        chosen.write("\n".join(wanted.values()) + "\n")
        chosen.flush()
        pip("--require-hashes", "-r", chosen.name)


def trim(libraries: Path) -> None:
    """Remove what no program reads at run time."""
    for folder, names, files in os.walk(libraries):
        for name in [name for name in names if name in UNWANTED_FOLDERS]:
            # At the top a folder is a package of that name.
            if Path(folder) != libraries or name in ("include", "cmake"):
                shutil.rmtree(Path(folder, name))
                names.remove(name)
        for name in files:
            if name.endswith(UNWANTED_SUFFIXES):
                Path(folder, name).unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lock", type=Path)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--torch-index", default="")
    arguments = parser.parse_args()
    wheels = sorted(arguments.wheels.glob("*.whl")) if arguments.wheels else []
    install(arguments.lock, wheels, arguments.torch_index)
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
    subprocess.run([VENV / "bin" / "python", *compiling], check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
