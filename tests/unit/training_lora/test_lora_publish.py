"""An adapter appears complete or not at all, and the model server is told."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from evolving_agent.training.lora.publish import (
    AnnouncementError,
    VolumeError,
    announce,
    check_writable,
    publish,
    published,
)


def write_weights(directory: Path) -> None:
    (directory / "adapter.gguf").write_text("weights")


def test_an_adapter_appears_whole_under_its_name(tmp_path: Path) -> None:
    seen_while_writing: list[list[str]] = []

    def fill(directory: Path) -> None:
        write_weights(directory)
        seen_while_writing.append([path.name for path in tmp_path.iterdir() if path.name[0] != "."])

    place = publish(tmp_path, "support:v1", fill)

    assert seen_while_writing == [[]]
    assert place == tmp_path / "support:v1" == published(tmp_path, "support:v1")
    assert (place / "adapter.gguf").read_text() == "weights"
    assert place.stat().st_mode & 0o755 == 0o755
    assert os.listdir(tmp_path) == ["support:v1"]


def test_what_a_killed_attempt_left_is_removed_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    leftover = tmp_path / ".v1.abc"
    leftover.mkdir()
    (tmp_path / ".v10.abc").mkdir()

    def fail(directory: Path) -> None:
        write_weights(directory)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        publish(tmp_path, "v1", fail)

    assert os.listdir(tmp_path) == [".v10.abc"]
    assert published(tmp_path, "v1") is None


def test_a_name_never_changes_its_content(tmp_path: Path) -> None:
    publish(tmp_path, "v1", write_weights)

    def fill(directory: Path) -> None:
        (directory / "adapter.gguf").write_text("other weights")

    publish(tmp_path, "v1", fill)

    assert (tmp_path / "v1" / "adapter.gguf").read_text() == "weights"
    assert os.listdir(tmp_path) == ["v1"]


@pytest.mark.parametrize("model_id", ["", "..", "a/b", "/abs", ".hidden"])
def test_an_impossible_name_is_refused(tmp_path: Path, model_id: str) -> None:
    with pytest.raises(ValueError, match="cannot name an adapter"):
        publish(tmp_path, model_id, write_weights)


def test_a_missing_volume_is_found_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="mount the adapter volume"):
        check_writable(tmp_path / "absent")


def test_a_volume_that_takes_no_files_says_so(tmp_path: Path) -> None:
    def fill(directory: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(VolumeError, match=r"No space left on device.*uid \d+"):
        publish(tmp_path, "v1", fill)


class FakeServer(BaseHTTPRequestHandler):
    """Lists the adapters that were loaded, as vLLM does; refuses those named bad."""

    loaded: set[str]
    paths: list[str]

    def do_GET(self) -> None:
        self._answer(200, {"data": [{"id": name} for name in sorted(self.loaded)]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.paths.append(asked["lora_path"])
        if asked["lora_name"] == "bad":
            self._answer(400, {"error": "wrong architecture"})
            return
        self.loaded.add(asked["lora_name"])
        self._answer(200, "Success")

    def _answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's output quiet."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    FakeServer.loaded, FakeServer.paths = {"base", "known"}, []
    with HTTPServer(("127.0.0.1", 0), FakeServer) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def test_the_model_server_is_asked_to_load_what_it_does_not_list(endpoint: str) -> None:
    announce(endpoint, "known", Path("/adapters/known"))
    assert FakeServer.paths == []

    announce(endpoint, "new", Path("/adapters/new"))
    assert FakeServer.paths == ["/adapters/new"]


def test_a_refusal_of_the_model_server_is_passed_on(endpoint: str) -> None:
    with pytest.raises(AnnouncementError, match=r"'bad'.*400.*wrong architecture"):
        announce(endpoint, "bad", Path("/adapters/bad"))


def test_a_model_server_that_is_not_there_is_named() -> None:
    with pytest.raises(AnnouncementError, match=r"http://127\.0\.0\.1:9/v1 does not answer"):
        announce("http://127.0.0.1:9/v1", "v1", Path("/adapters/v1"))
