"""What the documents say of the tree is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE_ROW = re.compile(r"^\| [^|]+ \| (?P<path>[^ |]+) \|$", re.MULTILINE)


def concept_paths() -> list[str]:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = text[text.index("## Concept → file") :]
    return [match["path"] for match in TABLE_ROW.finditer(table) if match["path"] not in ("file", "---")]


@pytest.mark.parametrize("path", concept_paths())
def test_each_concept_has_its_file(path: str) -> None:
    assert (ROOT / path).exists()


def test_the_table_is_not_empty() -> None:
    assert len(concept_paths()) > 40


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")), ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []
