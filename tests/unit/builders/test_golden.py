"""Builders against golden YAML; `UPDATE_GOLDEN=1 pytest tests/unit/builders` writes it anew."""

from __future__ import annotations

import os

import pytest
import yaml

from support.golden import CASES, GOLDEN, build_all, context_of


@pytest.mark.parametrize("case", CASES)
def test_children_are_as_the_golden_files_say(case: str) -> None:
    built = build_all(context_of(case))

    files = {name: GOLDEN / case / f"{name}.out.yaml" for name in built}
    if os.environ.get("UPDATE_GOLDEN"):
        for name, manifest in built.items():
            files[name].write_text(yaml.safe_dump(manifest, sort_keys=True, width=110))

    assert {path.name for path in files.values()} == {
        path.name for path in (GOLDEN / case).glob("*.out.yaml")
    }
    for name, manifest in built.items():
        assert manifest == yaml.safe_load(files[name].read_text()), name


@pytest.mark.parametrize("case", CASES)
def test_building_twice_gives_the_same(case: str) -> None:
    assert build_all(context_of(case)) == build_all(context_of(case))
