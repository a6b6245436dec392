"""A real PostgreSQL for a test: a server of its own, in a temporary directory, on a socket in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.cluster import program

START_SECONDS = 120


@contextmanager
def postgres() -> Iterator[str]:
    """The connection string of a superuser. PostgreSQL does not run as root: then it runs as `nobody`."""
    user = "nobody" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        if user is not None:
            shutil.chown(directory, user)
        _run("initdb", "--auth=trust", "--username=owner", "--no-sync", "-D", str(data), user=user)
        options = f"-c listen_addresses= -c unix_socket_directories={directory} -c fsync=off"
        control = ("-D", str(data), "-w", "-t", str(START_SECONDS), "-l", f"{directory}/log")
        _run("pg_ctl", *control, "-o", options, "start", user=user)
        try:
            yield f"host={directory} user=owner dbname=postgres"
        finally:
            _run("pg_ctl", *control, "-m", "immediate", "stop", user=user)


def _run(name: str, *arguments: str, user: str | None) -> None:
    done = subprocess.run(
        [program(name), *arguments],
        user=user,
        cwd="/",
        stdin=subprocess.DEVNULL,
        # a server that goes on would hold a pipe open
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if name == "pg_ctl" else subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{name} ended with {done.returncode}: {done.stderr}"
