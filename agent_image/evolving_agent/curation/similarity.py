"""How alike two inputs are, and a fast, exact search for those that are alike enough.

Two inputs are compared by the Jaccard index of their sets of character 5-grams. The search is a
similarity join with prefix filtering: it looks only at pairs that share one of their rarest 5-grams,
and verifies each pair. Unlike hashed sketches (MinHash), which estimate, it misses no pair and reports no
false one, so that templated inputs, which differ in few words, are told apart exactly. Thresholds are
compared in integers: nothing is rounded.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable

SHINGLE_CHARACTERS = 5
_SEPARATORS = re.compile(r"[\W_]+")


def normalised(text: str) -> str:
    """The text without what does not matter: case, punctuation, width of characters, spacing."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = _SEPARATORS.sub(" ", folded).strip()
    return words or " ".join(folded.split())  # "???" is all punctuation, and still an input


def shingles(text: str) -> frozenset[str]:
    """The set of 5-grams of a normalised text; a shorter text is its own only one."""
    count = max(1, len(text) - SHINGLE_CHARACTERS + 1)
    return frozenset(text[start : start + SHINGLE_CHARACTERS] for start in range(count))


class SimilarityIndex:
    """Finds, among the texts added so far, those similar to a given one.

    `corpus` is what will be added or asked: it fixes the order of 5-grams, rarest first. A pair of sets
    with Jaccard ≥ t shares ≥ ceil(t·n) members of a set of n, so whichever order is used, each set's first
    n + 1 - ceil(t·n) members must contain a shared one. With rare ones first, few pairs do.
    """

    def __init__(self, corpus: Iterable[str], percent: int) -> None:
        self._percent = percent
        frequency = Counter(shingle for text in set(corpus) for shingle in shingles(text))
        rarest_first = sorted(frequency, key=lambda shingle: (frequency[shingle], shingle))
        # Numbers for strings: a sketch takes 4 bytes a shingle instead of 60.
        self._rank = {shingle: rank for rank, shingle in enumerate(rarest_first)}
        self._sketches: list[array[int]] = []
        self._bands: dict[int, list[int]] = {}

    def add(self, text: str) -> int:
        """Adds a normalised text of the corpus and returns its position, counted from 0."""
        sketch = self._sketch(text)
        position = len(self._sketches)
        self._sketches.append(sketch)
        for rank in self._prefix(sketch):
            self._bands.setdefault(rank, []).append(position)
        return position

    def similar_to(self, text: str) -> list[int]:
        """Positions, ascending, of all added texts that are similar to this normalised one of the corpus."""
        sketch = self._sketch(text)
        members = frozenset(sketch)
        candidates = {position for rank in self._prefix(sketch) for position in self._bands.get(rank, ())}
        return sorted(position for position in candidates if self._are_similar(members, position))

    def _are_similar(self, members: frozenset[int], position: int) -> bool:
        other = self._sketches[position]
        smaller, larger = sorted((len(members), len(other)))
        if 100 * smaller < self._percent * larger:
            return False  # too few to be shared
        shared = len(members.intersection(other))
        return 100 * shared >= self._percent * (len(members) + len(other) - shared)

    def _sketch(self, text: str) -> array[int]:
        return array("I", sorted(self._rank[shingle] for shingle in shingles(text)))

    def _prefix(self, sketch: array[int]) -> array[int]:
        shared_at_least = -(-self._percent * len(sketch) // 100)
        return sketch[: len(sketch) - shared_at_least + 1]
