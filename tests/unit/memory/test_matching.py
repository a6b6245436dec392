from __future__ import annotations

import pytest

from evolving_agent.memory.matching import content_words, coverage, search_expression


@pytest.mark.parametrize(
    "words", ["live lives living lived", "stop stops stopped stopping", "card cards", "reply replies replied"]
)
def test_forms_of_one_word_are_one_word(words: str) -> None:
    assert len(content_words(words)) == 1


def test_content_words_are_what_is_left_of_a_sentence() -> None:
    assert content_words("Hi, where is my Café card, please? My card!") == ["caf", "card"]


@pytest.mark.parametrize(
    ("query", "text", "share"),
    [
        ("lost card", "a card was lost", 1.0),
        ("lost bank card abroad", "the card was lost", 0.5),
        ("lost bank card abroad yesterday", "the card was lost", 0.0),
        ("lost card", "the card", 0.0),
        ("card", "the card", 1.0),
        ("the of", "the of", 0.0),
    ],
)
def test_coverage_is_the_share_of_the_querys_words(query: str, text: str, share: float) -> None:
    assert coverage(content_words(query), text) == share


def test_a_search_expression_quotes_every_word() -> None:
    assert search_expression('lost "card" OR x*') == '"lost" OR "card" OR "x"'
