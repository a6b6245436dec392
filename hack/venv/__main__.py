"""Creates or renews the development environment: python3 hack/venv DIRECTORY.

The environment holds exactly `requirements/dev.lock` (hashes checked) and this checkout in editable
form. A stamp with the lock's digest makes a second call free.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "dev.lock"
SOURCE_ROOTS = ("operator", "agent_image", "model_server")


def main() -> int:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv").resolve()
    if sys.version_info < (3, 11):
        print(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: set PYTHON=…", file=sys.stderr)
        return 1
    stamp = target / "lock.sha256"
    digest = hashlib.sha256(LOCK.read_bytes() + str(ROOT).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == digest:
        return 0
    print(f"venv: installing {LOCK.relative_to(ROOT)} into {target.name} …", flush=True)
    started = time.monotonic()
    created = subprocess.run([sys.executable, "-m", "venv", "--clear", str(target)], check=False)
    if created.returncode:
        print("venv: python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv", file=sys.stderr)
        return 1
    python = target / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    subprocess.run([*pip, "--require-hashes", "--no-deps", "-r", str(LOCK)], check=True)
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # A path file instead of an editable install: it needs no build backend, and the sources are the truth.
    paths = "".join(f"{ROOT / root}{os.linesep}" for root in SOURCE_ROOTS)
    Path(site, "evolving_agents.pth").write_text(paths)
    stamp.write_text(digest)
    print(f"venv: ready after {time.monotonic() - started:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
