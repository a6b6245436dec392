"""What the documents point at exists."""

from __future__ import annotations

import re

import pytest

from support.cluster import REPOSITORY

DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    text = (REPOSITORY / document).read_text()
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    assert [target for target in targets if not (REPOSITORY / target).exists()] == []


def test_every_path_in_the_table_of_concepts_exists() -> None:
    text = (REPOSITORY / "ARCHITECTURE.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    paths = [path for row in rows for path in re.findall(r"`([\w.*-]+/[\w./*{},-]*)`", row)]
    assert len(paths) >= 20, "the table from concept to file is gone"
    assert [path for path in paths if not list(REPOSITORY.glob(path))] == []
