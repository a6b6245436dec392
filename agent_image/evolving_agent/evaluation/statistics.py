"""How much better is the candidate at least? One-sided confidence for paired right-or-wrong answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

BASIS_POINTS = 10_000


@dataclass(frozen=True)
class Comparison:
    """Candidate against incumbent on the same cases, in basis points of the mean score.

    `lower` is the one-sided lower bound of `delta` (candidate minus incumbent), rounded down.
    """

    samples: int
    baseline: int | None
    candidate: int | None
    delta: int
    lower: int


def compare(candidate: Sequence[bool], incumbent: Sequence[bool], confidence_percent: int) -> Comparison:
    """Compares paired scores: the same position is the same case. Raises ValueError for unequal lengths.

    No case at all says nothing: a difference of 0, at least -100 %.
    """
    pairs = list(zip(candidate, incumbent, strict=True))
    count = len(pairs)
    if count == 0:
        return Comparison(0, None, None, 0, -BASIS_POINTS)
    gained = sum(new and not old for new, old in pairs)
    lost = sum(old and not new for new, old in pairs)
    bound = lower_bound(count, gained, lost, confidence_percent / 100)
    return Comparison(
        samples=count,
        baseline=share_in_basis_points(sum(incumbent), count),
        candidate=share_in_basis_points(sum(candidate), count),
        delta=round((gained - lost) * BASIS_POINTS / count),
        lower=math.floor(bound * BASIS_POINTS),
    )


def share_in_basis_points(part: int, whole: int) -> int:
    return round(part * BASIS_POINTS / whole)


def lower_bound(count: int, gained: int, lost: int, confidence: float) -> float:
    """One-sided lower confidence bound of the difference of two paired proportions.

    `gained` cases only the candidate has right, `lost` ones only the incumbent. The interval is Wald's with
    Bonett and Price's Laplace adjustment (Journal of Educational and Behavioral Statistics 37, 2012), one
    that Fagerland, Lydersen and Laake recommend for small samples (Statistics in Medicine 33, 2014):

        p = (gained + 1) / (n + 2)      q = (lost + 1) / (n + 2)
        bound = p - q - z · sqrt((p + q - (p - q)²) / (n + 2))

    Unlike Wald's own it is not sure of itself when nothing was lost, or nothing changed. How often it
    promises too much is computed exactly in the tests, by enumerating all outcomes.
    """
    p, q = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    spread = math.sqrt((p + q - (p - q) ** 2) / (count + 2))
    return max(-1.0, p - q - NormalDist().inv_cdf(confidence) * spread)
