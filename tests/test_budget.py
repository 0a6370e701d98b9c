"""The budget: bounds that are kept, multiples that are met, and the rule that moved k."""

import pytest
from helpers import MODEST, complains
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import budget_bounds_ref, budget_ref

from actprune_gpu.budget import apply_budget

shares = st.integers(0, 100).map(lambda percent: percent / 100)
budgets = st.none() | st.tuples(shares, shares.filter(bool)).map(sorted).map(tuple)


@MODEST
@given(
    st.integers(3, 300), st.data(), budgets, st.sampled_from([1, 1, 2, 4, 8, 16]), st.integers(1, 6)
)
def test_budget_matches_reference(n_channels, data, budget, round_to, min_channels):
    assume(min_channels <= n_channels)
    k_star = data.draw(st.integers(2, n_channels - 1))
    options = {"budget": budget, "round_to": round_to, "min_channels": min_channels}
    result = apply_budget(k_star, n_channels, **options)
    assert isinstance(result.k, int)
    assert result.reason.strip()
    assert 1 <= result.k <= n_channels
    expected = budget_ref(k_star, n_channels, **options)
    if expected:  # else no multiple lies inside the bounds, and there is no right answer
        assert result.k in expected
        assert result.k % round_to == 0
        fewest, most = budget_bounds_ref(n_channels, budget, min_channels)
        assert fewest <= result.k <= most


@MODEST
@given(st.integers(3, 120), budgets, st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 4))
def test_budget_is_monotone(n_channels, budget, round_to, min_channels):
    assume(min_channels <= n_channels)
    options = {"budget": budget, "round_to": round_to, "min_channels": min_channels}
    ks = [apply_budget(k, n_channels, **options).k for k in range(2, n_channels)]
    assert ks == sorted(ks)
    again = [apply_budget(k, n_channels, **options).k for k in ks if 2 <= k < n_channels]
    assert again == [k for k in ks if 2 <= k < n_channels]  # what fits stays where it is


@pytest.mark.parametrize(
    ("k_star", "n_channels", "options", "k"),
    [
        (30, 100, {}, 30),
        (10, 100, {}, 25),
        (70, 100, {}, 50),
        (70, 100, {"budget": None}, 70),
        (2, 100, {"budget": None}, 2),
        (30, 100, {"round_to": 8}, 32),
        (70, 100, {"round_to": 8}, 48),  # 50 would round to 48 or 56: only 48 is inside
        (10, 100, {"round_to": 8}, 32),  # 25 is nearer to 24, which is outside
        (3, 8, {"budget": (0.0, 1.0), "min_channels": 5}, 5),
        (5, 8, {"budget": (1.0, 1.0)}, 8),
        (50, 100, {"budget": (0.1, 0.29)}, 29),  # floor(0.29 * 100) is 28 in floating point
        (2, 100, {"budget": (0.07, 0.5)}, 7),  # ceil(0.07 * 100) is 8 in floating point
        (2, 3, {}, 2),
    ],
)
def test_budget_by_example(k_star, n_channels, options, k):
    assert apply_budget(k_star, n_channels, **options).k == k


def test_the_reason_tells_which_rule_moved_k():
    kept = apply_budget(30, 100)
    raised = apply_budget(10, 100)
    lowered = apply_budget(70, 100)
    rounded = apply_budget(30, 100, round_to=8)
    fewest = apply_budget(2, 100, budget=None, min_channels=5)
    reasons = [result.reason for result in (kept, raised, lowered, rounded, fewest)]
    assert len(set(reasons)) == len(reasons)
    assert "8" in rounded.reason


@pytest.mark.parametrize("n_channels", range(3, 9))
def test_bounds_without_a_whole_number_between_them(n_channels):
    # Half of seven channels is neither three nor four; either will do, an error will not.
    k = apply_budget(2, n_channels, budget=(0.5, 0.5)).k
    assert k in {max(2, n_channels // 2), max(2, (n_channels + 1) // 2)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": (0.5, 0.25)}, ["budget", "0.5", "0.25"]),
        ({"budget": (-0.1, 0.5)}, ["budget", "0", "1", "-0.1"]),
        ({"budget": (0.25, 1.5)}, ["budget", "0", "1", "1.5"]),
        ({"budget": (0.25, float("nan"))}, ["budget", "nan"]),
        ({"budget": (0.25,)}, ["budget"]),
        ({"budget": 0.5}, ["budget", "0.5"]),
        ({"budget": "0.25:0.5"}, ["budget", "0.25:0.5"]),
        ({"round_to": 0}, ["round_to", "0"]),
        ({"round_to": -8}, ["round_to", "-8"]),
        ({"min_channels": 0}, ["min_channels", "0"]),
        ({"k_star": 0}, ["k_star", "0"]),
        ({"n_channels": 0}, ["n_channels", "0"]),
    ],
)
def test_bad_input_is_refused(options, words):
    options = {"k_star": 3, "n_channels": 10} | options
    with complains(*words):
        apply_budget(options.pop("k_star"), options.pop("n_channels"), **options)
