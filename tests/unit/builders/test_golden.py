"""Builders against golden YAML; `UPDATE_GOLDEN=1 pytest tests/unit/builders` writes it anew."""

from __future__ import annotations

import os

import pytest
import yaml

from support.golden import CASES, GOLDEN, build_all, context_of


class _Readable(yaml.SafeDumper):
    """Texts of several lines as such: the documents in a ConfigMap are read by people."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _Readable.represent_text)


@pytest.mark.parametrize("case", CASES)
def test_children_are_as_the_golden_files_say(case: str) -> None:
    built = build_all(context_of(case))

    files = {name: GOLDEN / case / f"{name}.out.yaml" for name in built}
    if os.environ.get("UPDATE_GOLDEN"):
        for name, manifest in built.items():
            files[name].write_text(yaml.dump(manifest, Dumper=_Readable, width=110))

    assert {path.name for path in files.values()} == {
        path.name for path in (GOLDEN / case).glob("*.out.yaml")
    }
    for name, manifest in built.items():
        assert manifest == yaml.safe_load(files[name].read_text()), name


@pytest.mark.parametrize("case", CASES)
def test_building_twice_gives_the_same(case: str) -> None:
    assert build_all(context_of(case)) == build_all(context_of(case))
