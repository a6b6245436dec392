"""A real Prometheus that scrapes what a test exposes."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from support.cluster import eventually, program

SCRAPE_SECONDS = 1


@dataclass(frozen=True)
class Target:
    """An address to scrape, with the labels that service discovery would have given it."""

    name: str  # unique
    address: str
    labels: dict[str, str]
    honor_labels: bool = False


@dataclass(frozen=True)
class Prometheus:
    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """`data` of an answer of the API; what Prometheus refuses is an AssertionError in its own words."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{parameters}: {json.load(refused)['error']}") from None

    def series(self, query: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.get("query", query=query)["result"]
        return result

    def label_values(self, metric: str, label: str) -> list[str]:
        values: list[str] = self.get(f"label/{label}/values", **{"match[]": metric})
        return values


@contextmanager
def exposed(exposition: Callable[[], bytes]) -> Iterator[str]:
    """Serves `/metrics` on loopback; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = exposition()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Scrapes are no news."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def running_prometheus(directory: Path, targets: list[Target]) -> Iterator[Prometheus]:
    """Prometheus, its data below `directory`, for as long as the block; every target was scraped once."""
    configuration = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s"},
        "scrape_configs": [
            {
                "job_name": target.name,
                "honor_labels": target.honor_labels,
                "static_configs": [{"targets": [target.address], "labels": target.labels}],
            }
            for target in targets
        ],
    }
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    log = directory / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={file}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    prometheus = Prometheus(f"http://{address}")

    def all_up() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"Prometheus ended: {log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(f"{prometheus.url}/-/ready", timeout=10).close()
            return len(prometheus.series("up == 1")) == len(targets)
        except urllib.error.URLError as refused:
            raise AssertionError(refused) from None

    try:
        eventually(all_up, 60, "Prometheus scrapes every target")
        yield prometheus
    finally:
        process.terminate()
        process.wait(timeout=30)
