"""Which directories are adapters, and which names and paths are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from evolving_model_server.adapters import AdapterDirectory, AdapterRefusedError


def add(root: Path, name: str) -> Path:
    file = root / name / "adapter.gguf"
    file.parent.mkdir(parents=True)
    file.write_text("weights")
    return file


def test_adapters_are_found_again_by_their_directories(tmp_path: Path) -> None:
    add(tmp_path, "support:v2")
    add(tmp_path, "support:v1")
    add(tmp_path, ".support:v3.unfinished")
    (tmp_path / "empty").mkdir()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "file").write_text("")

    assert AdapterDirectory(tmp_path).names() == ["support:v1", "support:v2"]


def test_a_volume_that_is_not_there_yet_holds_nothing(tmp_path: Path) -> None:
    directory = AdapterDirectory(tmp_path / "later")

    assert directory.names() == []
    assert directory.find("v1") is None
    add(tmp_path / "later", "v1")
    assert directory.names() == ["v1"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../secret", "a/../../secret", "/etc", ".hidden", "a/b", "a\0b", "x" * 201]
)
def test_no_name_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    root = tmp_path / "adapters"
    add(tmp_path, "secret")
    add(root, "a")
    add(root, ".hidden")

    assert AdapterDirectory(root).find(name) is None
    with pytest.raises(AdapterRefusedError, match="not a possible adapter name"):
        AdapterDirectory(root).require(name)


def test_a_link_out_of_the_volume_is_not_followed(tmp_path: Path) -> None:
    secret = add(tmp_path, "secret")
    root = tmp_path / "adapters"
    root.mkdir()
    (root / "linked").symlink_to(secret.parent)

    assert AdapterDirectory(root).names() == []


def test_a_volume_that_is_itself_reached_by_a_link_works(tmp_path: Path) -> None:
    add(tmp_path / "disk", "v1")
    (tmp_path / "adapters").symlink_to(tmp_path / "disk")

    assert AdapterDirectory(tmp_path / "adapters").names() == ["v1"]


@pytest.mark.parametrize("form", ["{root}/v1", "{root}/v1/", "{root}/v1/adapter.gguf", "v1"])
def test_the_path_of_an_adapter_may_be_named_in_several_ways(tmp_path: Path, form: str) -> None:
    file = add(tmp_path, "v1")

    assert AdapterDirectory(tmp_path).require("v1", form.format(root=tmp_path)) == file


@pytest.mark.parametrize("path", ["{root}/v2", "/etc/passwd", "../v1", "{root}"])
def test_a_path_where_the_name_would_not_be_found_again_is_refused(tmp_path: Path, path: str) -> None:
    add(tmp_path, "v1")
    add(tmp_path, "v2")

    with pytest.raises(AdapterRefusedError, match="lora_path must be"):
        AdapterDirectory(tmp_path).require("v1", path.format(root=tmp_path))


def test_a_missing_adapter_is_refused_by_the_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(AdapterRefusedError, match=r"v9/adapter\.gguf"):
        AdapterDirectory(tmp_path).require("v9")
