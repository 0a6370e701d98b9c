"""The weighted choice: one channel for each cluster, the heaviest."""

import numpy as np
import pytest
import torch
from helpers import MODEST, complains
from hypothesis import given
from hypothesis import strategies as st
from reference import choose_by_weight_ref

from actprune_gpu.choice import choose_by_weight

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
