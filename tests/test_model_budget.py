"""One scale for all layers: the target met, as much kept as it allows, and where it hurts least."""

import itertools

import numpy as np
import pytest
import torch
from helpers import MODEST, complains
from hypothesis import given
from hypothesis import strategies as st

from actprune_gpu.knee import Knee
from actprune_gpu.model_budget import share_out
from actprune_gpu.selection import Candidate, SelectionConfig


def layers(sizes, knees=None, **settings):
    config = SelectionConfig(**settings)
    return {
        f"layer{i}": Candidate(
            torch.zeros(size), config, knee=Knee(knees[i], "knee") if knees else None
        )
        for i, size in enumerate(sizes)
    }


def cost_of(prices, target, sizes):
    whole = sum(price * size for price, size in zip(prices, sizes, strict=True))

    def cost(counts):
        used = sum(price * count for price, count in zip(prices, counts.values(), strict=True))
        return used / (target * whole)

    return cost


def counts_of(budgets):
    return {name: budget.k for name, budget in budgets.items()}


sizes_and_prices = st.lists(
    st.tuples(st.integers(3, 40), st.floats(0.1, 10.0)), min_size=1, max_size=5
)


@MODEST
@given(sizes_and_prices, st.floats(0.3, 1.0), st.sampled_from([1, 1, 4]), st.booleans())
def test_as_much_is_kept_as_the_target_allows(layout, target, round_to, by_damage):
    sizes, prices = zip(*layout, strict=True)
    candidates = layers(sizes, round_to=round_to)
    cost = cost_of(prices, target, sizes)
    damage = None
    if by_damage:
        damage = {
            name: np.linspace(1, 0, size + 1) ** (1 + i % 3)
            for i, (name, size) in enumerate(zip(candidates, sizes, strict=True))
        }
    if (
        cost(
            {
                name: min(max(2, round_to), size)
                for name, size in zip(candidates, sizes, strict=True)
            }
        )
        > 1
    ):
        with complains("target 0.5", "out of reach"):
            share_out(candidates, cost, "target 0.5", damage=damage)
        return
    budgets = share_out(candidates, cost, "target 0.5", damage=damage)
    counts = counts_of(budgets)
    assert cost(counts) <= 1.0
    assert all(budget.reason == "target 0.5" for budget in budgets.values())
    for name, size in zip(candidates, sizes, strict=True):
        assert min(2, size) <= counts[name] <= size
        assert counts[name] % round_to == 0 or counts[name] == size


def test_proportions_follow_the_knees():
    sizes, knees = (100, 100, 100), (10, 20, 40)
    counts = counts_of(
        share_out(layers(sizes, knees), cost_of((1, 1, 1), 70 / 300, sizes), "at the knees")
    )
    assert list(counts.values()) == [10, 20, 40]
    more = counts_of(share_out(layers(sizes, knees), cost_of((1, 1, 1), 0.6, sizes), "above"))
    assert list(more.values()) == sorted(more.values())
    assert 10 < more["layer0"] < more["layer1"] < more["layer2"] < 100
    assert sum(more.values()) == 180


def test_without_knees_all_keep_the_same_share():
    sizes = (20, 100, 40)
    counts = counts_of(share_out(layers(sizes), cost_of((1, 1, 1), 0.75, sizes), "three quarters"))
    assert list(counts.values()) == [15, 75, 30]


@MODEST
@given(
    st.lists(st.tuples(st.floats(0.2, 5.0), st.floats(1.0, 4.0)), min_size=2, max_size=3),
    st.floats(0.4, 0.9),
)
def test_damage_is_nearly_the_least_there_is(layout, target):
    """Against every way there is; convex curves, whose optima prices can find."""
    size = 8
    prices = [price for price, _ in layout]
    candidates = layers([size] * len(layout))
    damage = {
        name: np.linspace(1, 0, size + 1) ** bend
        for name, (_, bend) in zip(candidates, layout, strict=True)
    }
    cost = cost_of(prices, target, [size] * len(layout))

    def harm(counts):
        return sum(damage[name][count] for name, count in counts.items())

    ways = (
        dict(zip(candidates, way, strict=True))
        for way in itertools.product(range(2, size + 1), repeat=len(layout))
    )
    best = min((harm(way) for way in ways if cost(way) <= 1.0), default=None)
    if best is None:
        return
    counts = counts_of(share_out(candidates, cost, "target", damage=damage))
    # Prices find the corners of the hull; the rest of the way is filled layer by layer.
    largest_step = max(float(np.abs(np.diff(curve)).max()) for curve in damage.values())
    assert harm(counts) <= best + largest_step + 1e-9


def test_dear_channels_go_first_and_harmless_ones_at_once():
    sizes = (40, 40, 40)
    straight = np.linspace(1, 0, 41)
    harmless = np.concatenate([straight[:31:3], np.zeros(30)])
    damage = dict(zip(layers(sizes), (straight, straight, harmless), strict=True))
    candidates = layers(sizes)
    counts = counts_of(
        share_out(candidates, cost_of((3, 1, 1), 0.7, sizes), "target", damage=damage)
    )
    assert counts["layer0"] < counts["layer1"]
    # A target that all channels meet: it ends, although some are never worth keeping.
    every = counts_of(share_out(candidates, cost_of((3, 1, 1), 1.0, sizes), "all", damage=damage))
    assert every["layer0"] == every["layer1"] == 40


@pytest.mark.parametrize("by_damage", [False, True])
def test_twins_keep_equally_many(by_damage):
    sizes = (32, 32, 64)
    candidates = layers(sizes)
    damage = {"layer0": np.linspace(1, 0, 33), "layer1": np.linspace(1, 0, 33) ** 3}
    damage["layer2"] = np.linspace(1, 0, 65)
    counts = counts_of(
        share_out(
            candidates,
            cost_of((1, 2, 1), 0.6, sizes),
            "target",
            twins=[("layer0", "layer1")],
            damage=damage if by_damage else None,
        )
    )
    assert counts["layer0"] == counts["layer1"]
    assert cost_of((1, 2, 1), 0.6, sizes)(counts) > 0.95


@MODEST
@given(sizes_and_prices, st.floats(0.5, 1.0), st.sampled_from([4, 8, 16]))
def test_multiples_leave_a_hundredth_or_no_layer_can_keep_more(layout, target, round_to):
    sizes, prices = zip(*layout, strict=True)
    candidates = layers(sizes, round_to=round_to)
    cost = cost_of(prices, target, sizes)
    lowest = {name: min(round_to, size) for name, size in zip(candidates, sizes, strict=True)}
    if cost(lowest) > 1.0:
        return
    counts = counts_of(share_out(candidates, cost, "target"))
    assert cost(counts) <= 1.0
    if cost(counts) < 0.99:
        for name, size in zip(candidates, sizes, strict=True):
            more = counts[name] + round_to
            assert more > size or cost({**counts, name: more}) > 1.0
