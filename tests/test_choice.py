"""The weighted choice: one channel for each cluster, the heaviest, and others beyond the knee."""

import numpy as np
import pytest
import torch
from helpers import MODEST, complains
from hypothesis import given
from hypothesis import strategies as st
from reference import beyond_knee_ref, choose_by_weight_ref, combined_ref

from actprune_gpu.choice import choose_by_weight, divided, with_heaviest
from actprune_gpu.weights import combined

# Few labels and few weights: clusters of several channels, and ties in most of them.
channels = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from([-2.0, -0.0, 0.0, 0.5, 3.0])), min_size=1
)


@MODEST
@given(channels)
def test_choice_matches_reference_and_keeps_one_of_each_cluster(rows):
    cluster_labels, weights = (np.array(column) for column in zip(*rows, strict=True))
    keep = choose_by_weight(cluster_labels, weights)
    assert keep.dtype == np.int64
    assert keep.tolist() == choose_by_weight_ref(cluster_labels, weights).tolist()
    assert sorted(cluster_labels[keep]) == sorted(set(cluster_labels))
    assert (np.diff(keep) > 0).all()


@MODEST
@given(channels, st.integers(1, 99), st.integers(0, 2**32 - 1))
def test_beyond_the_knee_the_heaviest_stay_and_clusters_are_divided(rows, k, seed):
    labels, weights = (torch.tensor(column) for column in zip(*rows, strict=True))
    # Few places: many channels are equally near to several that are kept, or at one with them.
    points = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, (len(rows), 2))).float()
    one_of_each = choose_by_weight(labels, weights)
    k = min(max(k, len(one_of_each)), len(rows))
    keep = with_heaviest(one_of_each, weights, k)
    found = divided(labels, points, keep)
    expected = beyond_knee_ref(labels.numpy(), weights.numpy(), points.numpy(), k)
    assert keep.tolist() == expected[0].tolist()
    assert found.tolist() == expected[1].tolist()
    # So every part has its heaviest channel kept, as whole clusters have.
    assert choose_by_weight(found, weights).tolist() == keep.tolist()


@MODEST
@given(st.lists(st.tuples(*[st.sampled_from([-1.0, 0.0, 0.5, 1e300])] * 3), min_size=1))
def test_weights_of_several_kinds_are_sums_of_places(rows):
    parts = [torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)]
    expected = combined_ref([part.numpy() for part in parts])
    assert combined(parts).tolist() == expected.tolist()
    assert combined(parts[::-1]).tolist() == expected.tolist()
    assert combined(parts[:1]) is parts[0]


def test_ties_go_to_the_lowest_index():
    labels = torch.tensor([1, 0, 1, 0, 1])
    assert choose_by_weight(labels, torch.ones(5)).tolist() == [0, 1]
    assert choose_by_weight(labels, torch.tensor([1.0, 2, 3, 2, 3])).tolist() == [1, 2]


def test_the_heaviest_need_not_be_the_largest_in_magnitude():
    labels = torch.tensor([0, 0])
    assert choose_by_weight(labels, torch.tensor([-5.0, -1.0])).tolist() == [1]


def test_close_weights_are_told_apart():
    weights = torch.tensor([1.0, 1.0 + 2**-52, 1.0], dtype=torch.float64)
    assert choose_by_weight(torch.tensor([0, 0, 0]), weights).tolist() == [1]


def test_kinds_and_layouts_agree():
    rng = np.random.default_rng(0)
    labels, weights = rng.integers(0, 9, 60), rng.normal(0, 1, 60).astype(np.float32)
    expected = choose_by_weight(labels, weights)
    assert isinstance(expected, np.ndarray)
    got = choose_by_weight(torch.from_numpy(labels), torch.from_numpy(weights))
    assert got.dtype == torch.int64
    assert got.tolist() == expected.tolist()
    buffer = torch.zeros(121, 2)
    buffer[1::2, 1] = torch.from_numpy(weights)
    spaced = torch.from_numpy(np.repeat(labels, 2))[::2].int()
    assert choose_by_weight(spaced, buffer[1::2, 1]).tolist() == expected.tolist()
    assert choose_by_weight(labels[::-1].copy()[::-1], weights).tolist() == expected.tolist()


labels3 = torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("cluster_labels", "weights", "words"),
    [
        (labels3, torch.ones(4), ["weights", "3", "4"]),
        (labels3, torch.ones(3, 1), ["weights", "3, 1"]),
        (labels3, torch.tensor([1.0, float("nan"), 1.0]), ["weights", "nan"]),
        (labels3, torch.ones(3, dtype=torch.complex64), ["weights", "complex64"]),
        (labels3, ["heavy", "light", "light"], ["weights", "list"]),
        (labels3[None], torch.ones(3), ["cluster_labels", "1, 3"]),
        (labels3.float(), torch.ones(3), ["cluster_labels", "float32"]),
        (torch.tensor([0, -1, 1]), torch.ones(3), ["cluster_labels", "-1"]),
    ],
)
def test_bad_input_is_refused(cluster_labels, weights, words):
    with complains(*words):
        choose_by_weight(cluster_labels, weights)
