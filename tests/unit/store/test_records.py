"""The log's documents are what their page says."""

from __future__ import annotations

import re

import msgspec
import pytest

from evolving_agent.store.records import Episode, Gap, ReflectionRecord
from support.cluster import REPOSITORY

PAGE = (REPOSITORY / "docs" / "experience-log.md").read_text()


@pytest.mark.parametrize("record", [Episode, ReflectionRecord, Gap], ids=lambda record: record.__name__)
def test_every_field_is_documented_and_every_documented_field_exists(record: type[msgspec.Struct]) -> None:
    tag = record.__struct_config__.tag
    _, _, section = PAGE.partition(f'(`type`: "{tag}")')
    table = section.partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*`) \|", table, re.MULTILINE)

    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]

    assert sorted(documented) == sorted(record.__struct_fields__)
