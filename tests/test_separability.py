"""Jeffries-Matusita distances: the published formula on a grid of 2^-15."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import (
    MODEST,
    class_names,
    complains,
    moments_of,
    planted_moments,
    random_moments,
    same,
    with_threads,
)
from hypothesis import given
from hypothesis import strategies as st
from reference import class_moments_ref, jeffries_matusita_ref

from actprune_gpu.backends.cpu import separability as on_cpu
from actprune_gpu.moments import ClassMoments
from actprune_gpu.separability import class_statistics, jeffries_matusita

GRID = 2.0**-15
seeds = st.integers(0, 2**32 - 1)


def reference_of(moments, std_floor=1e-10):
    return jeffries_matusita_ref(moments.count, moments.mean, moments.m2, std_floor)


def assert_matches_reference(moments):
    result = jeffries_matusita(moments)
    matrix, pairs, used = reference_of(moments)
    names = moments.class_names
    assert result.matrix.dtype == torch.float32
    assert result.matrix.shape == matrix.shape
    np.testing.assert_allclose(result.matrix.double().numpy(), matrix, rtol=0, atol=2e-5)
    assert result.pairs.tolist() == pairs.tolist()
    assert result.classes == tuple(names[i] for i in used)
    assert result.left_out == tuple(n for i, n in enumerate(names) if i not in used)
    on_grid = result.matrix.double() / GRID
    assert torch.equal(on_grid, on_grid.round())
    assert result.matrix.min() >= 0
    assert result.matrix.max() <= 2


@MODEST
@given(st.integers(1, 40), st.integers(1, 9), st.integers(2, 6), seeds, st.sampled_from([0.0, 0.4]))
def test_separability_matches_reference(n, c, n_classes, seed, bad):
    rng = np.random.default_rng(seed)
    activations = rng.normal(rng.normal(0, 2, c), np.exp(rng.normal(0, 1, c)), (n, c))
    activations[rng.random((n, c)) < bad] = np.nan
    activations[:, rng.random(c) < 0.2] = 3.5  # constant channels
    labels = rng.integers(0, n_classes, n)
    moments = ClassMoments.from_activations(activations, labels, class_names(n_classes))
    if (moments.count >= 2).any(dim=1).sum() < 2:
        with complains("class"):
            jeffries_matusita(moments)
    else:
        assert_matches_reference(moments)


@pytest.mark.parametrize("seed", range(3))
def test_separability_matches_reference_on_planted_and_random_classes(seed):
    assert_matches_reference(planted_moments(6, 5, seed=seed)[0])
    assert_matches_reference(random_moments(30, n_classes=15, seed=seed))


def test_separability_matches_reference_on_real_activations(real_moments):
    assert real_moments
    for moments in real_moments.values():
        some = slice(None, None, 6)  # of the classes: the reference takes its time
        fields = moments.count[some], moments.mean[some], moments.m2[some]
        assert_matches_reference(ClassMoments(*fields, moments.class_names[some]))


def test_separability_worked_by_hand():
    # Equal deviations, means two apart: B = 4/8. Equal means, deviations 1 and 3: B = ln(5/3)/2.
    # Deviations no larger than the floor count as the floor, so constants differ or they do not.
    mean = [[0.0, 5.0, 1.0, 1.0], [2.0, 5.0, 1.0, 1.001]]
    std = [[1.0, 1.0, 0.0, 0.0], [1.0, 3.0, 0.0, 0.0]]
    got = jeffries_matusita(moments_of(mean, std)).matrix[:, 0].tolist()
    expected = [2 * (1 - math.exp(-0.5)), 2 * (1 - math.sqrt(0.6)), 0.0, 2.0]
    assert got == pytest.approx(expected, abs=2e-5)
    assert got[2:] == [0.0, 2.0]


def test_std_floor_replaces_smaller_deviations():
    moments = moments_of([[0.0], [1.0]], [[0.0], [0.5]])
    for floor in (1e-10, 0.1, 1.0):
        expected = reference_of(moments, floor)[0]
        got = jeffries_matusita(moments, std_floor=floor).matrix
        np.testing.assert_allclose(got, expected, atol=2e-5)
    assert jeffries_matusita(moments, std_floor=1.0).matrix[0, 0] == pytest.approx(
        2 * (1 - math.exp(-1 / 8)), abs=2e-5
    )


def test_tiny_and_huge_variances_are_no_special_case():
    # Same shape at every scale; a product of such variances is subnormal or infinite in fp32.
    base = random_moments(4, n_classes=3)
    expected = jeffries_matusita(base).matrix
    for scale in (2.0**-25, 2.0**60):
        scaled = replace(base, mean=base.mean * scale, m2=base.m2 * scale**2)
        assert same(jeffries_matusita(scaled).matrix, expected)


@MODEST
@given(st.integers(1, 8), st.integers(2, 6), seeds)
def test_order_of_the_classes_does_not_matter(c, n_classes, seed):
    moments = random_moments(c, n_classes, seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n_classes))
    shuffled = ClassMoments(
        moments.count[order],
        moments.mean[order],
        moments.m2[order],
        tuple(moments.class_names[i] for i in order),
    )

    def by_names(result):
        return {
            frozenset(result.classes[i] for i in pair): column
            for pair, column in zip(result.pairs.tolist(), result.matrix.T, strict=True)
        }

    first, second = by_names(jeffries_matusita(moments)), by_names(jeffries_matusita(shuffled))
    assert first.keys() == second.keys()
    assert all(same(first[pair], second[pair]) for pair in first)


@MODEST
@given(st.integers(1, 8), st.integers(2, 6), seeds, st.floats(0.01, 100), st.floats(-10, 10))
def test_rescaling_a_channel_does_not_matter(c, n_classes, seed, scale, shift):
    moments = random_moments(c, n_classes, seed)
    for sign in (1, -1):
        factor = sign * scale
        rescaled = replace(moments, mean=moments.mean * factor + shift, m2=moments.m2 * factor**2)
        distance = jeffries_matusita(moments).matrix - jeffries_matusita(rescaled).matrix
        assert distance.abs().max() <= GRID  # rounding may fall on either side of a half


def test_channels_are_independent_of_each_other():
    moments = random_moments(9, n_classes=5)
    whole = jeffries_matusita(moments).matrix
    picked = torch.tensor([7, 2, 2, 0])
    some = replace(
        moments,
        count=moments.count[:, picked],
        mean=moments.mean[:, picked],
        m2=moments.m2[:, picked],
    )
    assert same(jeffries_matusita(some).matrix, whole[picked])


def test_absent_classes_are_named_and_unseen_channels_are_zero():
    moments = random_moments(3, n_classes=5)
    count = moments.count.clone()
    count[1] = 1  # one sample is no distribution
    count[3] = 0
    count[2, 1] = 1  # class 2 is used, but channel 1 has not seen enough of it
    result = jeffries_matusita(replace(moments, count=count))
    assert result.left_out == ("class1", "class3")
    assert result.classes == ("class0", "class2", "class4")
    assert result.pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert result.matrix[1].tolist() == [0.0, result.matrix[1, 1].item(), 0.0]
    assert (result.matrix[[0, 2]] > 0).all()
    assert result.matrix[1, 1] > 0


def test_not_a_number_is_left_out_per_channel():
    rng = np.random.default_rng(0)
    activations, labels = rng.normal(0, 1, (60, 3)), rng.integers(0, 3, 60)
    activations[::4, 1] = np.nan
    activations[1::4, 2] = np.inf
    got = jeffries_matusita(ClassMoments.from_activations(activations, labels, class_names(3)))
    for channel in range(3):
        finite = np.isfinite(activations[:, channel])
        alone = class_moments_ref(activations[finite, channel : channel + 1], labels[finite], 3)
        expected, _, _ = jeffries_matusita_ref(*alone)
        np.testing.assert_allclose(got.matrix[channel], expected[0], atol=2e-5)


def test_many_classes_are_paired_row_by_row():
    moments = random_moments(3, n_classes=130)  # more pairs than any one tile
    result = jeffries_matusita(moments)
    upper = np.triu_indices(130, 1)
    assert result.pairs.tolist() == np.stack(upper, axis=1).tolist()
    np.testing.assert_allclose(result.matrix, reference_of(moments)[0], atol=2e-5)


def test_views_of_moments_give_the_same_distances():
    moments = random_moments(8, n_classes=5)
    strided = replace(
        moments,
        count=moments.count.T.contiguous().T,
        mean=torch.stack([moments.mean, moments.mean + 1], dim=-1)[..., 0],
        m2=torch.cat([torch.ones(1, 8, dtype=torch.float64), moments.m2])[1:],
    )
    assert same(jeffries_matusita(strided).matrix, jeffries_matusita(moments).matrix)


def test_two_calls_give_the_same_bits_and_leave_the_moments_alone():
    moments = random_moments(40, n_classes=20)
    before = [t.clone() for t in (moments.count, moments.mean, moments.m2)]
    assert same(jeffries_matusita(moments).matrix, jeffries_matusita(moments).matrix)
    after = (moments.count, moments.mean, moments.m2)
    assert all(same(a, b) for a, b in zip(before, after, strict=True))


def test_number_of_threads_does_not_matter():
    moments = random_moments(320, n_classes=30)  # [320, 435]: enough for the work to be shared
    first, *others = (with_threads(n, lambda: jeffries_matusita(moments).matrix) for n in (1, 2, 3))
    assert all(same(first, other) for other in others)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
@pytest.mark.parametrize(("c", "n_classes"), [(3, 2), (8, 17), (21, 30), (67, 24)])
def test_distances_are_those_between_rows(c, n_classes, n_threads, monkeypatch):
    moments = random_moments(c, n_classes)
    steps = jeffries_matusita(moments).matrix.double() / GRID
    squared = (steps[:, None] - steps).square().sum(2)
    # As if there were much to do, in calls of one tile of pairs each.
    monkeypatch.setattr(on_cpu, "_MIN_SEPARABILITIES", 1)
    monkeypatch.setattr(on_cpu, "_MAX_PRODUCTS", 1)
    statistics = class_statistics(moments)[0]
    found = with_threads(n_threads, lambda: on_cpu.separability_distances(statistics))
    assert torch.equal(found.squared, squared)
    assert torch.equal(found.row_mean, steps.sum(1) / steps.shape[1] * GRID)
    assert torch.equal(found.row_max, steps.amax(1) * GRID)


@pytest.mark.parametrize("n_seen", [0, 1])
def test_one_class_alone_cannot_be_separated(n_seen):
    moments = random_moments(5, n_classes=4)
    count = torch.zeros_like(moments.count)
    count[:n_seen] = 50
    count[2] = 1
    with complains("class", "2", n_seen):
        jeffries_matusita(replace(moments, count=count))


@pytest.mark.parametrize("floor", [0.0, -1.0, float("nan")])
def test_std_floor_must_be_positive(floor):
    with complains("std_floor", "positive", str(floor)):
        jeffries_matusita(random_moments(3), std_floor=floor)


def test_only_moments_have_a_separability():
    with complains("moments", "ClassMoments", "Tensor"):
        jeffries_matusita(torch.zeros(3, 3))


def test_moments_that_are_not_finite_are_refused():
    activations = torch.rand(20, 4, dtype=torch.float64) * 1e200
    moments = ClassMoments.from_activations(activations, torch.arange(20) % 2, ["a", "b"])
    with complains("m2", "finite"):
        jeffries_matusita(moments)
