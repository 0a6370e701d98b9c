"""Whole selections on the CUDA kernels are those of the CPU, bit for bit."""

import numpy as np
import pytest
import torch
from cuda_device import DEVICE, ON_GPU, backend

for package in ("numba", "kneed", "pydantic", "hypothesis"):
    pytest.importorskip(package, exc_type=ImportError)  # Numba may refuse the NumPy that is there
from helpers import moments_of, planted_moments, same  # noqa: E402

from actprune_gpu import (  # noqa: E402
    ClassMoments,
    LayerWeights,
    SelectionConfig,
    backends,
    jeffries_matusita,
    kmedoids_sweep,
    select_channels,
    simplified_silhouette,
    tsne,
)
from actprune_gpu.bench.inputs import real_embeddings  # noqa: E402
from actprune_gpu.layers import select_layers  # noqa: E402
from actprune_gpu.selection import PRESETS  # noqa: E402

CUDA = backend()


def equal(ours, theirs):
    return same(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


@pytest.fixture
def on_cuda(monkeypatch):
    """Let the stages compute with the CUDA kernels."""
    if not ON_GPU:
        monkeypatch.setattr(backends, "_backend", lambda device: CUDA)
    return DEVICE


def selection_bits(selection):
    fields = vars(selection).copy()
    summary = fields.pop("separability")
    fields |= {"mean": summary.mean, "max": summary.max}
    return {key: v.cpu() if isinstance(v, torch.Tensor) else v for key, v in fields.items()}


def assert_equal_selections(ours, theirs):
    ours, theirs = selection_bits(ours), selection_bits(theirs)
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not equal(ours[key], theirs[key])] == []


@pytest.mark.parametrize("preset", ["default", "upstream", "paper"])
def test_whole_selections(preset, request):
    moments, _ = planted_moments(6, 4)
    weights = torch.rand(24, generator=torch.Generator().manual_seed(1))
    config = SelectionConfig.preset(preset, n_iter=300)
    theirs = select_channels(moments, weights, config=config)
    device = request.getfixturevalue("on_cuda")
    assert_equal_selections(
        select_channels(moments.to(device), weights.to(device), config=config), theirs
    )


def test_a_degenerate_layer(request):
    moments = moments_of(np.zeros((4, 5)), np.zeros((4, 5)))
    config = SelectionConfig(n_iter=50, perplexity=1.0)
    theirs = select_channels(moments, torch.ones(5), config=config)
    device = request.getfixturevalue("on_cuda")
    assert_equal_selections(
        select_channels(moments.to(device), torch.ones(5), config=config), theirs
    )


# All iterations where they take seconds on the emulator, and some of them with more channels.
@pytest.mark.parametrize(
    ("widths", "settings"),
    [
        ((16, 32), {}),
        ((16, 32, 64), {"n_iter": 60}),
        ((64, 128), {"n_iter": 30, "budget": (0.75, 0.75), **PRESETS["repair"]}),
    ],
    ids=["whole", "three", "for repair"],
)
def test_real_layers_at_once(widths, settings, request, real_moments):
    of_width = {m.n_channels: name for name, m in real_moments.items() if m.n_channels in widths}
    layers = {name: real_moments[name] for name in of_width.values()}
    numbers = {n: torch.arange(n, dtype=torch.float64) for n in widths}
    weights = {
        name: LayerWeights(l1=numbers[m.n_channels], reconstruct=numbers[m.n_channels])
        for name, m in layers.items()
    }
    config = SelectionConfig(**settings)
    theirs = select_layers(layers, weights, config=config)
    device = request.getfixturevalue("on_cuda")
    moved = {name: moments.to(device) for name, moments in layers.items()}
    ours = select_layers(moved, weights, config=config)
    assert len(ours) == len(theirs) == len(widths)
    for name in ours:
        assert_equal_selections(ours[name], theirs[name])


def test_a_real_wide_layer_is_clustered_alike(request):
    points = torch.from_numpy(real_embeddings()["model.8.cv2"])
    theirs = kmedoids_sweep(points)
    device = request.getfixturevalue("on_cuda")
    ours = kmedoids_sweep(points.to(device))
    for name in ("loss", "mss_mean", "mss_nearest", "_medoid_bits"):
        assert torch.equal(getattr(ours, name).cpu(), getattr(theirs, name))


def strided(tensor):
    """The same numbers behind others and with others between them."""
    shape = [2 * size + 1 for size in tensor.shape]
    wide = torch.zeros(shape, dtype=tensor.dtype, device=tensor.device)
    view = wide[tuple(slice(1, None, 2) for _ in shape)]
    return view.copy_(tensor)


def test_tensors_that_do_not_lie_in_order(on_cuda):
    """At every public function: the kernels themselves take tensors as they are said to be."""
    moments, _ = planted_moments(6, 4)
    moments = moments.to(on_cuda)
    spread = ClassMoments(
        *map(strided, (moments.count, moments.mean, moments.m2)), moments.class_names
    )
    assert not spread.mean.is_contiguous()
    matrix = jeffries_matusita(moments).matrix
    assert torch.equal(jeffries_matusita(spread).matrix, matrix)
    start = torch.rand((24, 2), generator=torch.Generator().manual_seed(1)).to(on_cuda)
    points = tsne(matrix, n_iter=20, init=start).embedding
    assert torch.equal(tsne(strided(matrix), n_iter=20, init=strided(start)).embedding, points)
    # Of any type: float64 is handed on without a copy that would put it in order.
    points = points.double()
    ours, theirs = kmedoids_sweep(strided(points)), kmedoids_sweep(points)
    assert torch.equal(ours.loss, theirs.loss)
    assert torch.equal(ours.clustering(5).cluster_labels, theirs.clustering(5).cluster_labels)
    medoids = torch.tensor([7, 1, 4], device=on_cuda)
    score = simplified_silhouette(points, medoids)
    assert simplified_silhouette(strided(points), strided(medoids)) == score
    config = SelectionConfig(n_iter=20)
    weights = torch.arange(24.0, device=on_cuda)
    assert_equal_selections(
        select_channels(spread, strided(weights), config=config),
        select_channels(moments, weights, config=config),
    )


@pytest.fixture
def reads(on_cuda, monkeypatch):
    """How many numbers each read of a tensor takes to the host, outside of the emulator."""
    sizes, launching = [], []
    if not ON_GPU:
        launch = CUDA.launcher.launch

        def silent(*arguments, **options):
            launching.append(True)
            try:
                launch(*arguments, **options)
            finally:
                launching.pop()

        monkeypatch.setattr(CUDA.launcher, "launch", silent)

    def counting(name):
        read = getattr(torch.Tensor, name)

        def method(tensor, *arguments, **options):
            if not launching and (tensor.is_cuda or not ON_GPU):
                sizes.append(1 if name == "nonzero" else tensor.numel())
                launching.append(True)  # what it calls itself is the same read
                try:
                    return read(tensor, *arguments, **options)
                finally:
                    launching.pop()
            return read(tensor, *arguments, **options)

        return method

    for name in ("cpu", "tolist", "item", "__int__", "__float__", "__bool__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, counting(name))
    return sizes


@pytest.mark.parametrize("weight", ["activation+reconstruct", "l1", "filters"])
def test_hardly_anything_goes_to_the_host(weight, reads):
    moments, _ = planted_moments(6, 4)
    ours = moments.to(DEVICE)
    numbers = torch.arange(24.0, device=DEVICE)
    weights = LayerWeights(l1=numbers, reconstruct=numbers)
    config = SelectionConfig(n_iter=20)
    if weight == "filters":
        weights = numbers[:, None] * numbers
    else:
        config = SelectionConfig(n_iter=20, weight=weight, beyond_knee="weight")
    reads.clear()
    select_channels(ours, weights, config=config)
    # What docs/kernels.md lists: the silhouettes, a flag for each class, and single numbers.
    large = [moments.n_classes, 24 - 2]
    large += [] if ON_GPU else [24 - 2]  # the ks, which only seem to come from the device
    assert sorted(size for size in reads if size > 3) == sorted(large)
    assert len(reads) < 24, reads


def test_what_a_detector_sees_is_gathered_where_it_runs(request, tiny_checkpoint, make_dataset):
    pytest.importorskip("ultralytics")
    from actprune_gpu.models.ultralytics.checkpoint import load_checkpoint
    from actprune_gpu.models.ultralytics.dataset import load_dataset
    from actprune_gpu.models.ultralytics.gather import gather

    checkpoint, dataset = load_checkpoint(tiny_checkpoint), load_dataset(make_dataset(9))
    options = {"image_size": 96, "confidence": 0.0, "iou": 0.0}
    layers = ("model.0", "model.2.m.0.cv1")
    theirs = gather(checkpoint, dataset, layers, **options)
    device = request.getfixturevalue("on_cuda")
    ours = gather(checkpoint, dataset, layers, device=device, **options)
    for one, other in zip(
        (ours.moments, *ours.shards), (theirs.moments, *theirs.shards), strict=True
    ):
        assert one.keys() == other.keys()
        for layer, moments in one.items():
            assert moments.mean.device == device
            if ON_GPU:  # whose convolutions round differently
                assert torch.equal(moments.count.cpu(), other[layer].count)
                torch.testing.assert_close(moments.mean.cpu(), other[layer].mean)
            else:
                assert moments == other[layer]
