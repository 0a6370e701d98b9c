"""Memory is asked for first; what is short of it is done alone; several devices at once."""

import threading
import types
from contextlib import contextmanager, nullcontext

import pytest
import torch
from cuda_device import CPU, ON_GPU, backend, equal, made
from digests import statistics

from actprune_gpu import kmedoids, kmedoids_sweep
from actprune_gpu.backends import map_devices
from actprune_gpu.backends.cuda import separability
from actprune_gpu.backends.cuda.memory import MemoryShortageError
from actprune_gpu.backends.cuda.streams import map_items
from actprune_gpu.errors import InputError

pytestmark = pytest.mark.skipif(ON_GPU, reason="a GPU has the memory that it has")


def points(n):
    return torch.rand((n, 2), generator=torch.Generator().manual_seed(n), dtype=torch.float64)


def test_what_does_not_fit_is_refused_with_the_bytes_needed():
    cuda = backend(memory=100_000)
    with pytest.raises(InputError, match=r"sweep of 300 points needs [\d,]+ bytes on cpu, 100,000"):
        cuda.kmedoids_sweep([points(300)])
    with pytest.raises(InputError, match="the affinities of 130 points needs"):
        cuda.affinities(made("separability_distances", statistics(130, 9)).squared, 10.0)
    with pytest.raises(InputError, match="the separability of 67 channels needs"):
        cuda.separability_distances(statistics(67, 24))
    with pytest.raises(InputError, match=r"a separability matrix \[400, 276\] needs"):
        cuda.jeffries_matusita(statistics(400, 24))
    with pytest.raises(InputError, match=r"distances between 200 rows .* arrays that lie there"):
        cuda.pairwise_distances(torch.ones(200, 3, dtype=torch.float64))
    assert not cuda.launcher.launches


def test_layers_that_do_not_fit_at_once_are_swept_in_batches():
    cuda = backend(memory=200_000)
    layers = [points(n) for n in (40, 50, 45)]
    assert equal(cuda.kmedoids_sweep(layers), CPU.kmedoids_sweep(layers))
    assert cuda.launcher.launches["kmedoids_chain"] in (8, 12)  # of four passes each


def test_tiles_shrink_with_the_memory(monkeypatch):
    used = []
    monkeypatch.setattr(separability, "distances_by_tile", lambda *args: used.append(args[2]))
    # 2048 channels and as many pairs as 1000 classes have, in 2 GB and in less.
    for memory in (2_000_000_000, 300_000_000, 100_000_000):
        backend(memory=memory).separability_distances(statistics(2048, 3))
    assert used[0] == separability._TILE_BYTES > used[1] > used[2] >= separability._LEAST_TILE_BYTES
    assert 2 * 8 * 2048**2 + 2 * used[0] < 2_000_000_000 / 1.1


def test_pytorchs_complaint_becomes_one_line():
    def fail(*arguments, **options):
        raise torch.cuda.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 1 GiB. "
            "If reserved but unallocated memory is large try setting"
        )

    cuda = backend()
    cuda.launcher.launch = fail
    with pytest.raises(InputError, match=r"Tried to allocate 2.00 GiB. GPU 0.* device='cpu'") as e:
        cuda.jeffries_matusita(statistics(3, 2))
    assert "\n" not in str(e.value)
    assert "If reserved" not in str(e.value)


def test_every_device_is_served_in_a_thread_on_the_stream_that_is_current_here(monkeypatch):
    entered = {}
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")

    @contextmanager
    def enter(stream):
        entered[threading.get_ident()] = stream
        yield

    monkeypatch.setattr(torch.cuda, "stream", enter)
    both = threading.Barrier(3, timeout=60)

    def serve(item):
        both.wait()  # passes only if all are served at once
        return item, entered[threading.get_ident()]

    items = {torch.device("cuda", 1): "a", torch.device("cpu"): "b", torch.device("cuda", 0): "c"}
    want = [("a", "stream of cuda:1"), ("b", None), ("c", "stream of cuda:0")]
    assert list(map_devices(serve, items)) == want
    here = list(map_devices(lambda item: threading.get_ident(), {torch.device("cpu"): "b"}))
    assert here == [threading.get_ident()]


@pytest.fixture
def streams(monkeypatch):
    """Streams that do nothing."""
    stream = types.SimpleNamespace(
        record_event=lambda: None, wait_event=lambda event: None, synchronize=lambda: None
    )
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())


def test_items_that_are_short_of_memory_beside_others_are_done_alone(streams):
    tries = []

    def square(item):
        tries.append(item)
        if tries.count(item) == 1 and item % 2:
            raise MemoryShortageError("too many at once")
        return item * item

    device = torch.device("cuda", 0)
    assert list(map_items(device, square, range(6))) == [0, 1, 4, 9, 16, 25]
    assert sorted(tries[:6]) == [*range(6)]
    assert tries[6:] == [1, 3, 5]


def test_an_item_that_does_not_fit_even_alone_is_an_error(streams):
    def fail(item):
        raise MemoryShortageError("needs 5 bytes")

    with pytest.raises(InputError, match="needs 5 bytes"):
        list(map_items(torch.device("cuda", 0), fail, range(3)))


def test_labels_are_found_tile_by_tile(monkeypatch):
    sweep = kmedoids_sweep(points(50))
    want = [sweep.clustering(k).cluster_labels for k in (2, 17, 49)]
    monkeypatch.setitem(kmedoids._TILE, "cpu", 100)
    assert all(map(torch.equal, want, [sweep.clustering(k).cluster_labels for k in (2, 17, 49)]))
