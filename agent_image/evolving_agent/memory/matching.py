"""How well a remembered text fits a query: strict, because what is recalled costs prompt tokens."""

from __future__ import annotations

import math
import re
import unicodedata

MIN_COVERAGE = 0.5  # of the query's content words
MIN_SHARED_WORDS = 2  # one shared word is chance, unless the query has no other

_WORD = re.compile(r"[^\W_]+")
MAX_QUERY_WORDS = 32
_STOP_WORDS = frozenset(
    _WORD.findall(
        "a about after all also am an and any are as at be because been but by can could did do does "
        "for from get had has have he hello hey hi how i if in into is it its just like me my need no "
        "not of on or our out please she should so some tell thank thanks that the their them then "
        "there they this to up us want was we were what when where which who why will with would you "
        "your "
    )
)
_SUFFIXES = ("ingly", "edly", "ings", "ing", "ied", "ies", "ed", "es", "s")


def content_words(text: str) -> list[str]:
    """The distinct words that carry meaning, in order, lower case, without accents, roughly stemmed."""
    plain = "".join(
        char for char in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(char)
    )
    words = (word for word in _WORD.findall(plain) if word not in _STOP_WORDS)
    return list(dict.fromkeys(_stem(word) for word in words))


def _stem(word: str) -> str:
    """lives, living, lived, live: liv; stopped, stopping, stops: stop; cards, card: card."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word.removesuffix(suffix) + ("y" if suffix in ("ied", "ies") else "")
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiou":
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def search_expression(query: str) -> str:
    """An FTS5 expression that finds candidates: any of the query's content words. "" if it has none."""
    plain = unicodedata.normalize("NFKC", query.lower())
    words = dict.fromkeys(word for word in _WORD.findall(plain) if word not in _STOP_WORDS)
    return " OR ".join(f'"{word}"' for word in list(words)[:MAX_QUERY_WORDS])


def needed(words: int) -> int:
    """How many of a query's content words a text must have to fit."""
    return max(min(MIN_SHARED_WORDS, words), math.ceil(words * MIN_COVERAGE))


def coverage(query_words: list[str], text: str) -> float:
    """Share of the query's content words that the text has; 0 where too few are shared to mean anything."""
    shared = len(set(query_words) & set(content_words(text)))
    if not query_words or shared < needed(len(query_words)):
        return 0.0
    return shared / len(query_words)
