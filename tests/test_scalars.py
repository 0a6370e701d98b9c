"""Numbers among the arguments: of any library, and what is none."""

import numpy as np
import pytest
import torch

from actprune_gpu import InputError, apply_budget, find_knee, kmedoids_sweep, tsne
from actprune_gpu.scalars import real_number, whole_number

POINTS = np.random.RandomState(0).rand(12, 2)


@pytest.mark.parametrize("value", [7, np.int64(7), np.uint8(7), torch.tensor(7), np.array(7)])
def test_whole_numbers_of_any_kind(value):
    number = whole_number(value, "k")
    assert number == 7
    assert type(number) is int


@pytest.mark.parametrize("value", [0, -3, 7.0, np.float64(7), torch.tensor(7.0), "7", None, True])
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(InputError, match="k must be a whole number from 1, got"):
        whole_number(value, "k")


def test_whole_numbers_have_bounds():
    assert whole_number(4, "k", 2, 4) == 4
    with pytest.raises(InputError, match=r"k must be a whole number in 2\.\.4, got 5"):
        whole_number(5, "k", 2, 4)


@pytest.mark.parametrize("value", [5, 5.0, np.float32(5), torch.tensor(5.0), np.array(5)])
def test_real_numbers_of_any_kind(value):
    number = real_number(value, "perplexity")
    assert number == 5.0
    assert type(number) is float


@pytest.mark.parametrize("value", ["5", None, [5.0, 6.0], torch.ones(2), True, 5j])
def test_what_is_no_real_number_is_named(value):
    with pytest.raises(InputError, match="perplexity must be a number, got"):
        real_number(value, "perplexity")


def test_every_k_of_a_sweep_has_a_clustering():
    sweep = kmedoids_sweep(POINTS)
    for k in sweep.ks:
        assert len(sweep.clustering(k).medoids) == k


def test_stages_take_numpys_numbers():
    ours = apply_budget(np.uint8(9), np.uint8(200), round_to=np.int64(8))
    assert ours == apply_budget(9, 200, round_to=8)
    assert type(ours.k) is int
    embedded = tsne(
        POINTS,
        perplexity=np.float32(3),
        n_iter=np.int64(30),
        learning_rate=np.float32(5),
        seed=np.int64(2),
    )
    plain = tsne(POINTS, perplexity=3, n_iter=30, learning_rate=5, seed=2)
    assert np.array_equal(embedded.embedding, plain.embedding)


@pytest.mark.parametrize(
    "call",
    [
        lambda: tsne(POINTS, n_iter=300.0),
        lambda: tsne(POINTS, seed=1.5),
        lambda: tsne(POINTS, perplexity="5"),
        lambda: tsne(POINTS, learning_rate=None),
        lambda: apply_budget(9.5, 24),
        lambda: apply_budget(9, 24, round_to=2.5),
        lambda: kmedoids_sweep(POINTS).clustering(4.0),
        lambda: find_knee([2, 3, 4], [0.1, 0.5, 0.6], polynomial_degree=2.5),
    ],
)
def test_stages_refuse_what_is_no_number(call):
    with pytest.raises(InputError, match=r"must be a (whole )?number"):
        call()
