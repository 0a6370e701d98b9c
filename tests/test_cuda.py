"""The CUDA kernels, on the emulator or a GPU, give the bits of the CPU's kernels."""

import numpy as np
import pytest
import torch
from cuda_device import (
    CPU,
    DEVICE,
    ON_GPU,
    SEEDS,
    assert_equal,
    assert_result,
    backend,
    equal,
    made,
    move,
)
from digests import statistics

from actprune_gpu.moments import ClassMoments


def squared(n, seed=0):
    return made("separability_distances", statistics(n, 9)).squared


def uniform(n, seed=0):
    return torch.from_numpy(np.random.RandomState(seed).random_sample((n, 2)))


def doubled(n, seed=0):
    """Points many of which coincide."""
    return (uniform(n, seed) * 3).round()


def features_at(dtype):
    """Features, cells and labels; the features do not begin where their memory does."""
    random = np.random.RandomState(3)
    features = torch.from_numpy(random.randint(-3000, 3000, (2, 131, 5, 6)) / 1024.0).to(dtype)
    features[0, 1, 2] = float("nan")
    features[1, 2, :, 3] = float("inf")
    features[:, 3] *= 1e-7  # subnormal in half precision
    features[:, 4] = 1.0
    cells = torch.from_numpy(random.randint(0, [2, 5, 6], (300, 3)))
    return features[:, 1:], cells, torch.from_numpy(random.randint(0, 7, 300))


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "offset": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
    "every other": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "expanded": lambda x: x[:, :, :1, :1].expand_as(x),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [(dtype, "offset") for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)]
    + [(torch.float16, layout) for layout in LAYOUTS],
)
def test_gather_class_moments(dtype, layout, seed):
    features, cells, labels = features_at(dtype)
    arguments = LAYOUTS[layout](features), cells, labels
    cuda = backend(seed=seed)

    def gathered(kernels, device):
        moments = ClassMoments.zeros(130, [str(i) for i in range(7)], device)
        into = (moments.count, moments.mean, moments.m2)
        for _ in range(2):  # onto what is there
            kernels.gather_class_moments(*move(arguments, device), into)
        return into

    ours = move(gathered(cuda, DEVICE), "cpu")
    assert_result("gather_class_moments", arguments, ours, lambda: gathered(CPU, "cpu"))


def test_moments_that_do_not_lie_in_order_are_updated_in_place():
    features, cells, labels = move(features_at(torch.float32))
    want = ClassMoments.zeros(130, "abcdefg", DEVICE)
    backend().gather_class_moments(features, cells, labels, (want.count, want.mean, want.m2))
    into = tuple(
        torch.zeros((130, 9), dtype=part.dtype, device=DEVICE).T[1:8]
        for part in (want.count, want.mean, want.m2)
    )
    backend().gather_class_moments(features, cells, labels, into)
    assert all(map(torch.equal, into, (want.count, want.mean, want.m2)))


def test_features_of_other_types_are_widened():
    features, cells, labels = move(features_at(torch.float32))
    features = features.nan_to_num(0.0, 0.0).to(torch.float8_e4m3fn)
    ours, theirs = (ClassMoments.zeros(130, "abcdefg", DEVICE) for _ in range(2))
    for values, moments in ((features, ours), (features.float(), theirs)):
        into = (moments.count, moments.mean, moments.m2)
        backend().gather_class_moments(values, cells, labels, into)
    assert ours == theirs


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("n_channels", "n_classes"), [(2, 2), (7, 3), (67, 24), (130, 5)])
def test_jeffries_matusita(n_channels, n_classes, seed):
    values = statistics(n_channels, n_classes)
    values.n_samples[1:2, 0] = 1  # too few for channel 1, if there is one
    assert_equal("jeffries_matusita", values, cuda=backend(seed=seed))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("n_channels", "n_classes"), [(3, 2), (67, 24), (130, 3)])
def test_separability_distances(n_channels, n_classes, seed, monkeypatch):
    values = statistics(n_channels, n_classes)
    assert_equal("separability_distances", values, cuda=backend(seed=seed))
    monkeypatch.setattr("actprune_gpu.backends.cuda.separability._TILE_BYTES", 8 * n_channels * 7)
    assert_equal("separability_distances", values, cuda=backend(seed=seed))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [3, 31, 75, 130])
def test_affinities(n, seed):
    assert_equal("affinities", squared(n), min(10.0, (n - 1) / 3), cuda=backend(seed=seed))


def test_affinities_of_coinciding_points():
    rows = torch.zeros((40, 2), dtype=torch.float64)
    rows[5] = 3.0
    assert_equal("affinities", made("pairwise_distances", rows), 5.0)
    assert_equal("affinities", made("pairwise_distances", rows * 0.0), 5.0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [3, 31, 75])
def test_principal_axes(n, seed):
    assert_equal("principal_axes", squared(n), cuda=backend(seed=seed))


@pytest.mark.parametrize("n", [3, 20])
def test_principal_axes_of_points_on_a_line_or_a_spot(n):
    line = torch.arange(n, dtype=torch.float64)[:, None]
    assert_equal("principal_axes", made("pairwise_distances", line))
    assert_equal("principal_axes", made("pairwise_distances", line * 0.0))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("n", "n_iter"), [(3, 60), (37, 30), (70, 5)])
def test_tsne(n, n_iter, seed):
    distances = squared(n)
    p = made("affinities", distances, min(10.0, (n - 1) / 3))
    start = made("principal_axes", distances) * 1e-4
    assert_equal("tsne", p, start, n_iter, 12.0, [10.0, 50.0], cuda=backend(seed=seed))


def test_tsne_past_the_exploration_and_when_the_gradient_vanishes():
    distances = squared(12)
    p, start = made("affinities", distances, 3.0), made("principal_axes", distances)
    assert_equal("tsne", p, start, 320, 4.0, [5.0])
    # Two points that attract each other come to rest; this must end before its iterations do.
    pair = torch.tensor([[0.0, 0.5], [0.5, 0.0]])
    start = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    assert made("tsne", pair, start, 900, 1.0, [0.5])[0][2] < 900
    assert_equal("tsne", pair, start, 900, 1.0, [0.5])


def test_tsne_where_the_coordinates_do_not_fit_into_shared_memory(monkeypatch):
    monkeypatch.setattr("actprune_gpu.backends.cuda.tsne._STATIC_SHARED", 2**30)
    distances = squared(40)
    p, start = made("affinities", distances, 9.0), made("principal_axes", distances)
    assert_equal("tsne", p, start, 20, 12.0, [5.0])


def test_layers_at_once_are_layers_one_after_another():
    cuda = backend()
    layers = [move(squared(n, n)) for n in (range(20, 180, 4) if ON_GPU else (5, 33, 12))]

    def embedded(distances):
        p = cuda.affinities(distances, (len(distances) - 1) / 4)
        return cuda.tsne(p, cuda.principal_axes(distances), 20, 12.0, [5.0, 50.0])

    at_once = list(cuda.map(embedded, layers))
    assert equal(at_once, [embedded(distances) for distances in layers])


SWEEPS = [(uniform, n) for n in (3, 4, 5, 33, 70)] + [(doubled, n) for n in (3, 17, 70)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("points", "n"), SWEEPS)
def test_kmedoids_sweep(points, n, seed):
    assert_equal("kmedoids_sweep", [points(n, n)], cuda=backend(seed=seed))


@pytest.fixture
def short_segments(monkeypatch):
    """Segments of k for fewer points than otherwise, as 640 take the emulator long."""
    monkeypatch.setattr("actprune_gpu.backends.plane._ONE_CHAIN", 384)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("points", [uniform, doubled])
@pytest.mark.usefixtures("short_segments")
def test_kmedoids_sweep_in_segments(points, seed):
    assert_equal("kmedoids_sweep", [points(400)], cuda=backend(seed=seed))


@pytest.mark.parametrize("points", [uniform(70), doubled(133)], ids=["uniform", "doubled"])
def test_kmedoids_sweep_with_fewer_threads_than_points(points, monkeypatch):
    monkeypatch.setattr("actprune_gpu.backends.cuda.kmedoids._MAX_BLOCK", 64)
    assert_equal("kmedoids_sweep", [points])


def test_kmedoids_sweep_of_many_points(monkeypatch):
    """Up and down over a few k: all of them would take the emulator minutes."""
    backends = ["actprune_gpu.backends.cuda.kmedoids"]
    backends += ["actprune_gpu.backends.cpu.kmedoids.sweep"] if CPU else []
    for name in backends:
        monkeypatch.setattr(f"{name}.segments", lambda n, shortest: [(2, 5)])
        monkeypatch.setattr(f"{name}.second_pass", lambda n: [(4, 1)])
    points = uniform(1100)  # more than are kicked, and than a warp flags in one pass

    def swept(cuda, points):
        (sweep,) = cuda.kmedoids_sweep([points])
        return [part[:3].clone() for part in sweep]

    ours = move(swept(backend(), move(points)), torch.device("cpu"))
    assert_result("kmedoids_sweep", ("k < 5", points), ours, lambda: swept(CPU, points))


@pytest.mark.usefixtures("short_segments")
def test_kmedoids_sweeps_of_several_layers_in_one_launch():
    cuda = backend()
    layers = [uniform(20), doubled(390), uniform(7, 1), uniform(50, 2)]
    assert_equal("kmedoids_sweep", layers, cuda=cuda)
    if not ON_GPU:
        launches = cuda.launcher.launches
        assert launches["kmedoids_grow"] == 1
        assert launches["kmedoids_chain"] == 4  # one for each pass


def test_kmedoids_sweep_with_its_state_in_global_memory(monkeypatch):
    monkeypatch.setattr("actprune_gpu.backends.cuda.kmedoids._STATIC_SHARED", 226 * 1024)
    assert_equal("kmedoids_sweep", [uniform(40), uniform(5)])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("points", [uniform, doubled])
@pytest.mark.parametrize(("n", "k"), [(3, 2), (300, 2), (300, 77)])
def test_simplified_silhouette(points, n, k, seed):
    medoids = torch.from_numpy(np.random.RandomState(k).permutation(n)[:k])
    assert_equal("simplified_silhouette", points(n), medoids, cuda=backend(seed=seed))
