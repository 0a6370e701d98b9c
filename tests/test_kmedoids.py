"""The k-medoids sweep: a true PAM optimum for every k, at least as good as its rivals."""

import numpy as np
import pytest
import torch
from helpers import MODEST, complains, planted_points, same, with_threads
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    assign_ref,
    best_swap_ref,
    distances_ref,
    loss_ref,
    simplified_silhouette_ref,
)

from actprune_gpu.bench.inputs import real_embeddings
from actprune_gpu.kmedoids import kmedoids_sweep
from actprune_gpu.silhouette import simplified_silhouette

# Distances are multiples of 2^-30 of the extent of the points: all that a sweep may lose.
FIXED_POINT = 1e-7  # of a loss, in the choice of a swap
QUANTUM = 2.0**-30  # of the extent, in one distance


def uniform(n, seed=0):
    return np.random.default_rng(seed).random((n, 2)).astype(np.float32)


def clustered(n, n_groups, seed=0):
    rng = np.random.default_rng(seed)
    points = rng.normal(0, 20, (n_groups, 2))[rng.integers(0, n_groups, n)]
    return (points + rng.normal(0, 2, (n, 2))).astype(np.float32)


def grid(side):
    """Every distance many times over: nothing but ties."""
    return np.stack(np.divmod(np.arange(side * side), side), axis=1).astype(np.float32)


def collinear(n):
    along = np.cumsum(np.random.default_rng(n).random(n))
    return np.stack([along, 2 * along], axis=1).astype(np.float32)


def duplicated(n, copies):
    return np.repeat(uniform(n // copies), copies, axis=0)


def two_scales(n):
    """Two tight pairs of groups, far apart: short distances beside very long ones."""
    rng = np.random.default_rng(n)
    points = rng.normal(0, 1, (n, 2))
    points[: n // 2] += 1000
    return points.astype(np.float32)


DATA = {
    "uniform": uniform(60),
    "clustered": clustered(60, 7),
    "grid": grid(7),
    "collinear": collinear(40),
    "duplicated": duplicated(48, 3),
    "two scales": two_scales(40),
    "tiny": uniform(30, 1) * np.float32(1e-6),
    "huge": uniform(30, 2) * np.float32(1e9),
    "far from the origin": uniform(30, 3) + 1000,
    "three": uniform(3),
    "four": uniform(4),
    "five": uniform(5),
    "all equal": np.full((12, 2), 3.25, dtype=np.float32),
    "all equal but one": np.array([[0, 0]] * 9 + [[1, 1]], dtype=np.float32),
}


@pytest.fixture(scope="module", params=DATA)
def swept(request):
    points = DATA[request.param]
    return points, kmedoids_sweep(points)


def test_every_k_is_clustered(swept):
    points, sweep = swept
    n = len(points)
    assert list(sweep.ks) == list(range(2, n))
    assert len(sweep.loss) == len(sweep.mss_nearest) == len(sweep.mss_mean) == n - 2
    for k in range(2, n):
        clustering = sweep.clustering(k)
        assert clustering.medoids.shape == (k,)
        assert clustering.cluster_labels.shape == (n,)
        assert (np.diff(clustering.medoids) > 0).all()  # distinct and ascending
        assert clustering.medoids[0] >= 0
        assert clustering.medoids[-1] < n
        assert clustering.cluster_labels.min() >= 0
        assert clustering.cluster_labels.max() < k


def test_losses_are_those_of_the_medoids(swept):
    points, sweep = swept
    for k, loss in zip(sweep.ks, sweep.loss, strict=True):
        clustering = sweep.clustering(int(k))
        expected = loss_ref(points, clustering.medoids)
        rounding = len(points) * QUANTUM * float(np.ptp(points, axis=0).max())
        assert loss == pytest.approx(expected, rel=1e-7, abs=rounding)
        assert clustering.loss == loss


def test_points_belong_to_their_nearest_medoid(swept):
    points, sweep = swept
    distances = distances_ref(points)
    for k in sweep.ks:
        clustering = sweep.clustering(int(k))
        to_own = distances[np.arange(len(points)), clustering.medoids[clustering.cluster_labels]]
        to_nearest = distances[:, clustering.medoids].min(axis=1)
        np.testing.assert_allclose(to_own, to_nearest, rtol=1e-6, atol=1e-7 * distances.max())


def test_no_swap_improves_any_clustering(swept):
    points, sweep = swept
    distances = distances_ref(points)
    for k in sweep.ks:
        medoids = sweep.clustering(int(k)).medoids
        gain = best_swap_ref(distances, medoids)
        assert gain <= FIXED_POINT * loss_ref(points, medoids), f"k={k}"


def test_silhouettes_are_those_of_the_clusterings(swept):
    points, sweep = swept
    curves = {"mean": sweep.mss_mean, "nearest": sweep.mss_nearest}
    for definition, curve in curves.items():
        for k, mss in zip(sweep.ks, curve, strict=True):
            medoids = sweep.clustering(int(k)).medoids
            expected = simplified_silhouette_ref(points, medoids, definition)
            assert mss == pytest.approx(expected, abs=1e-6), f"{definition}, k={k}"
            alone = simplified_silhouette(points, medoids, definition=definition)
            assert mss == pytest.approx(alone, abs=1e-6), f"{definition}, k={k}"


@pytest.mark.parametrize("seed", range(2))
def test_no_swap_improves_a_larger_sweep(seed):
    points = clustered(150, 12, seed)
    distances = distances_ref(points)
    sweep = kmedoids_sweep(points)
    for k in [2, 3, 4, 5, 8, 12, 13, 20, 31, 32, 33, 50, 64, 75, 100, 128, 147, 148, 149]:
        medoids = sweep.clustering(k).medoids
        assert best_swap_ref(distances, medoids) <= FIXED_POINT * loss_ref(points, medoids)
        assert sweep.loss[k - 2] == pytest.approx(loss_ref(points, medoids), rel=1e-6)


@MODEST
@given(st.integers(3, 13), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_ties_and_duplicates(n, side, seed):
    """Small integer coordinates: equal distances are equal exactly, so ties must be settled."""
    points = np.random.default_rng(seed).integers(0, side, (n, 2)).astype(np.float32)
    distances = distances_ref(points)
    sweep = kmedoids_sweep(points)
    for i, k in enumerate(range(2, n)):
        clustering = sweep.clustering(k)
        medoids = clustering.medoids
        loss = loss_ref(points, medoids)
        assert (np.diff(medoids) > 0).all()
        assert best_swap_ref(distances, medoids) <= FIXED_POINT * loss + 1e-9
        assert sweep.loss[i] == pytest.approx(loss, rel=1e-6)
        assert clustering.cluster_labels.tolist() == assign_ref(points, medoids).tolist()
        for curve, definition in ((sweep.mss_mean, "mean"), (sweep.mss_nearest, "nearest")):
            expected = simplified_silhouette_ref(points, medoids, definition)
            assert curve[i] == pytest.approx(expected, abs=1e-6)


def test_small_cases_are_solved_outright():
    points = np.array([[0, 0], [1, 0], [10, 0], [11, 0], [30, 0]], dtype=np.float32)
    sweep = kmedoids_sweep(points)
    assert sweep.loss.tolist() == pytest.approx([20.0, 2.0, 1.0], rel=1e-6)
    three = sweep.clustering(3)
    assert three.cluster_labels.tolist() == [0, 0, 1, 1, 2]
    three_points = kmedoids_sweep(points[[0, 1, 4]])
    assert three_points.ks.tolist() == [2]
    assert three_points.loss.tolist() == pytest.approx([1.0], rel=1e-6)


@pytest.mark.parametrize("groups", [4, 8, 24])
def test_planted_groups_are_the_clusters(groups):
    points, group = planted_points(groups, 4)
    cluster_labels = kmedoids_sweep(points).clustering(groups).cluster_labels
    pairs = set(zip(group.tolist(), cluster_labels.tolist(), strict=True))
    assert len(pairs) == groups  # one cluster for each group, one group for each cluster


RIVALRY = {
    "uniform": uniform(120, 5),
    "clustered": clustered(150, 9, 6),
    "finely clustered": clustered(150, 30, 7),
    "planted": planted_points(24, 5)[0],
    "many": clustered(300, 30, 8),
}


def assert_not_above_fasterpam(points, ours):
    """Not above what a random start comes to on average for each k, nor above any run in sum.

    Both find local optima. At one of some ten thousand k ours is the unluckier one by more than
    0.5 %, on other data; these are the same everywhere. Ours may be sums of distances rounded to 30
    bits.
    """
    kmedoids = pytest.importorskip("kmedoids")
    distances, ks = distances_ref(points), range(2, len(points))
    runs = np.array(
        [[kmedoids.fasterpam(distances, k, random_state=run).loss for k in ks] for run in range(4)]
    )
    ratio = np.array(ours) / runs.mean(axis=0)
    assert ratio.max() <= 1.005, f"k={ratio.argmax() + 2}"
    assert (np.sum(ours) <= runs.sum(axis=1) * (1 + 1e-8)).all()


@pytest.mark.parametrize("data", RIVALRY)
def test_losses_are_not_above_fasterpam(data):
    points = RIVALRY[data]
    sweep = kmedoids_sweep(points)
    ours = [loss_ref(points, sweep.clustering(int(k)).medoids) for k in sweep.ks]
    assert_not_above_fasterpam(points, ours)


@pytest.mark.parametrize("layer", real_embeddings())
def test_losses_on_real_activations_are_not_above_fasterpam(layer):
    points = real_embeddings()[layer]
    assert_not_above_fasterpam(points, kmedoids_sweep(points).loss)


def test_two_calls_give_the_same_bits():
    points = torch.from_numpy(clustered(130, 10))
    assert_same_sweeps(kmedoids_sweep(points), kmedoids_sweep(points))


@pytest.mark.parametrize("n_points", [100, 200, 700])  # kicks for all k, for small k; segments
@pytest.mark.parametrize("kind", ["clustered", "grid"])
def test_number_of_threads_does_not_matter(kind, n_points):
    points = clustered(n_points, 10) if kind == "clustered" else grid(27)[:n_points]
    points = torch.from_numpy(points)
    first, second = (with_threads(n, lambda: kmedoids_sweep(points)) for n in (1, 2))
    assert_same_sweeps(first, second)


def assert_same_sweeps(first, second):
    for field in ("ks", "loss", "mss_nearest", "mss_mean"):
        assert same(getattr(first, field), getattr(second, field)), field
    for k in first.ks.tolist():
        a, b = first.clustering(k), second.clustering(k)
        assert same(a.medoids, b.medoids)
        assert same(a.cluster_labels, b.cluster_labels)
        assert a.loss == b.loss


def test_clusterings_may_be_asked_for_in_any_order():
    points = torch.from_numpy(clustered(40, 5))
    ascending, descending = kmedoids_sweep(points), kmedoids_sweep(points)
    backwards = {k: descending.clustering(k) for k in reversed(range(2, 40))}
    for k in range(2, 40):
        assert same(ascending.clustering(k).medoids, backwards[k].medoids)
        assert same(ascending.clustering(k).cluster_labels, backwards[k].cluster_labels)


def test_kinds_and_layouts_agree():
    array = clustered(40, 5)
    points = torch.from_numpy(array)
    expected = kmedoids_sweep(points)
    got = kmedoids_sweep(array)
    for field in ("ks", "loss", "mss_nearest", "mss_mean"):
        assert isinstance(getattr(expected, field), torch.Tensor), field
        assert isinstance(getattr(got, field), np.ndarray), field
        np.testing.assert_array_equal(getattr(got, field), getattr(expected, field).numpy())
    assert expected.loss.dtype == torch.float64
    for field in ("medoids", "cluster_labels"):
        a, b = getattr(got.clustering(7), field), getattr(expected.clustering(7), field)
        assert isinstance(a, np.ndarray)
        assert b.dtype == torch.int64
        np.testing.assert_array_equal(a, b.numpy())
    buffer = torch.full((85, 5), 9.0)
    buffer[3:83:2, 1:3] = points
    for view in (buffer[3:83:2, 1:3], points.T.contiguous().T, points.double()):
        assert_same_sweeps(kmedoids_sweep(view), expected)


def test_points_are_left_alone():
    points = torch.from_numpy(clustered(30, 5))
    before = points.clone()
    kmedoids_sweep(points)
    assert same(points, before)


def spoilt(value):
    points = torch.rand(5, 2)
    points[3, 1] = value
    return points


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (torch.rand(5), ["points", "5"]),
        (torch.rand(5, 3), ["points", "2", "5, 3"]),
        (torch.rand(2, 2), ["points", "3", "2"]),
        (torch.rand(0, 2), ["points", "3", "0"]),
        (spoilt(float("nan")), ["points", "finite"]),
        (spoilt(float("-inf")), ["points", "finite"]),
        (torch.rand(9, 2, dtype=torch.float64) * 1e300, ["points", "extend", "1e-150"]),
        (torch.rand(9, 2, dtype=torch.float64) * 1e-300, ["points", "extend", "1e-150"]),
        ([[-1.7e308, 0.0], [1.7e308, 0.0], [0.0, 1.0]], ["points", "extend"]),
        (torch.zeros(5, 2, dtype=torch.complex64), ["points", "complex64"]),
        ([[0.0, 1.0], [0.0]], ["points", "list"]),
    ],
)
def test_bad_points_are_refused(points, words):
    with complains(*words):
        kmedoids_sweep(points)


@pytest.mark.parametrize("scale", [2.0**-480, 2.0**480])
def test_points_of_any_allowed_extent_are_clustered_alike(scale):
    points = torch.as_tensor(uniform(20), dtype=torch.float64)
    found, expected = kmedoids_sweep(points * scale), kmedoids_sweep(points)
    assert torch.equal(found.loss, expected.loss * scale)
    assert torch.equal(found.mss_mean, expected.mss_mean)
    for k in (2, 9, 19):
        assert torch.equal(
            found.clustering(k).cluster_labels, expected.clustering(k).cluster_labels
        )


@pytest.mark.parametrize("k", [1, 0, -1, 10, 11])
def test_only_swept_k_have_a_clustering(k):
    sweep = kmedoids_sweep(uniform(10))
    with complains("k", "2", "9", k):
        sweep.clustering(k)
