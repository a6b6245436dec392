"""The lower bound, against exact enumeration of all outcomes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolving_agent.evaluation.statistics import BASIS_POINTS, compare, lower_bound


def chance_of_promising_too_much(count: int, gain: float, loss: float, confidence: float) -> float:
    """Exact probability that the bound lies above the true difference gain - loss.

    By enumeration of the trinomial distribution of (gained, lost, unchanged).
    """
    total = 0.0
    for gained in range(count + 1):
        for lost in range(count + 1 - gained):
            if lower_bound(count, gained, lost, confidence) > gain - loss + 1e-12:
                same = count - gained - lost
                ways = math.comb(count, gained) * math.comb(count - gained, lost)
                total += ways * gain**gained * loss**lost * (1 - gain - loss) ** same
    return total


@pytest.mark.parametrize("count", [10, 20, 30, 60])
def test_a_candidate_that_is_no_better_seldom_seems_so(count: int) -> None:
    """The false promotion: no true difference, yet a bound above 0: 5 %, or little more."""
    worst = max(
        chance_of_promising_too_much(count, share, share, 0.95) for share in (0.01, 0.05, 0.1, 0.2, 0.3, 0.4)
    )
    assert worst <= (0.0575 if count >= 30 else 0.066)


@pytest.mark.parametrize(("gain", "loss"), [(0.3, 0.0), (0.3, 0.1), (0.5, 0.0), (0.05, 0.15)])
def test_the_bound_keeps_its_confidence_where_there_is_a_difference(gain: float, loss: float) -> None:
    assert chance_of_promising_too_much(30, gain, loss, 0.95) <= 0.06
    assert chance_of_promising_too_much(30, gain, loss, 0.80) <= 0.23


def test_a_real_gain_is_seen_with_few_cases() -> None:
    assert lower_bound(30, 6, 0, 0.95) > 0
    assert lower_bound(30, 2, 0, 0.95) < 0


def test_the_formula_by_hand() -> None:
    # n=38, gained 11, lost 3: p=12/40, q=4/40, 0.2 - 1.6449 * sqrt((0.4 - 0.04)/40)
    assert lower_bound(38, 11, 3, 0.95) == pytest.approx(0.2 - 1.644854 * math.sqrt(0.36 / 40), abs=1e-6)


scores = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)


@given(scores, st.integers(50, 98))
def test_the_comparison_is_consistent(pairs: list[tuple[bool, bool]], confidence: int) -> None:
    new, old = [a for a, _ in pairs], [b for _, b in pairs]
    result = compare(new, old, confidence)
    assert result.candidate is not None
    assert result.baseline is not None
    assert abs(result.delta - (result.candidate - result.baseline)) <= 1
    assert -BASIS_POINTS <= result.lower <= BASIS_POINTS
    stricter = compare(new, old, confidence + 1)
    assert stricter.lower <= result.lower
    doubled = compare(new * 2, old * 2, confidence)
    assert doubled.delta == result.delta


@given(scores)
def test_one_more_case_won_never_lowers_the_bound(pairs: list[tuple[bool, bool]]) -> None:
    new, old = [a for a, _ in pairs], [b for _, b in pairs]
    lost = next((n for n, (a, b) in enumerate(pairs) if not a and b), None)
    if lost is None:
        return
    better = [*new[:lost], True, *new[lost + 1 :]]
    assert compare(better, old, 95).lower >= compare(new, old, 95).lower


def test_no_case_says_nothing() -> None:
    result = compare([], [], 95)
    assert (result.samples, result.baseline, result.candidate) == (0, None, None)
    assert (result.delta, result.lower) == (0, -BASIS_POINTS)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        compare([True], [True, False], 95)
