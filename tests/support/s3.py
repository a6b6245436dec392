"""A real S3 server over a folder, which can go away and come back."""

from __future__ import annotations

import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from evolving_agent.contract import env
from evolving_agent.store.object_store import ObjectStore
from support.cluster import eventually, program

BUCKET = "agents"
ACCESS_KEY, SECRET_KEY = "tester", "a-key-for-tests"


@dataclass
class S3Server:
    """Buckets are the folders below `directory`."""

    directory: Path
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def variables(self, prefix: str) -> dict[str, str]:
        """What a pod's environment says of it."""
        return {
            env.OBJECT_STORE: f"s3://{BUCKET}/{prefix}",
            env.AWS_ENDPOINT: self.endpoint,
            env.AWS_REGION: "us-east-1",
            env.AWS_ACCESS_KEY_ID: ACCESS_KEY,
            env.AWS_SECRET_ACCESS_KEY: SECRET_KEY,
        }

    def store(self, prefix: str) -> ObjectStore:
        variables = self.variables(prefix)
        return ObjectStore(variables[env.OBJECT_STORE], variables)

    def start(self) -> None:
        if not self.port:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]
        (self.directory / BUCKET).mkdir(parents=True, exist_ok=True)
        with (self.directory.parent / "s3.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    program("versitygw"),
                    *("--access", ACCESS_KEY, "--secret", SECRET_KEY),
                    *("--port", f"127.0.0.1:{self.port}", "--quiet"),
                    *("posix", str(self.directory)),
                ],
                stdout=log,
                stderr=log,
            )
        eventually(self._answers, 30, "the S3 server listens")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory.parent / "s3.log").read_text()
        try:
            urllib.request.urlopen(self.endpoint, timeout=5).close()
        except urllib.error.HTTPError:
            return True  # it wants a signature
        except OSError:
            return False
        return True


@contextmanager
def running_s3(directory: Path) -> Iterator[S3Server]:
    server = S3Server(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()
