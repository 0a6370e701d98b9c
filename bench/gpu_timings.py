"""Times of the kernels on a GPU, what they achieve, and the CPU's in the same run.

Times are medians between CUDA events, with the L2 cache flushed before each run. What a kernel
achieves is the work that cannot be avoided, in bytes or instructions, by its time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import digests
import torch
from cuda_device import move

from actprune_gpu.backends.protocol import Backend
from actprune_gpu.choice import choose_by_weight
from actprune_gpu.embedding import _learning_rates, tsne_of_distances
from actprune_gpu.errors import InputError
from actprune_gpu.kmedoids import kmedoids_sweeps
from actprune_gpu.moments import ClassMoments
from actprune_gpu.separability import class_statistics

REPEATS = 10
FLUSH_BYTES = 1 << 28
CYCLES_TO_LAUNCH = 2_000_000  # about a millisecond
CLASSES, SAMPLES = 80, 1000
# Instructions for one pair of points in an iteration of t-SNE; a division counts as eight.
TSNE_OPERATIONS = 19
SECTOR = 32  # bytes, the least that is read of memory
SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 16384)
LARGEST_ON_CPU = 2048
MANY = 2048, 1000  # channels and classes, whose separability takes more than memory may
# Bytes, and float32 instructions, of which a fused multiply-add is one, a second.
BYTES, OPERATIONS = "bytes_per_second", "float32_per_second"


class Case(NamedTuple):
    """A call to time, the work that it cannot avoid and what that is counted in."""

    name: str
    n: int
    work: float
    unit: str
    call: Callable[..., object]
    arguments: tuple[Any, ...]


def milliseconds(function: Callable[..., object], *arguments: object) -> list[float]:
    """Return the times of calls, ascending, after a warm-up, each from a cold L2 cache.

    The device is kept busy until the host has launched what it can: launching is not timed.
    """
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    function(*arguments)
    times = []
    for _ in range(REPEATS):
        flush.zero_()
        torch.cuda._sleep(CYCLES_TO_LAUNCH)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function(*arguments)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)


def ceilings() -> dict[str, float]:
    """Bytes a second of a copy, read and written, and instructions a second of a matrix product."""
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    copy = statistics.median(milliseconds(target.copy_, source))
    torch.backends.cuda.matmul.allow_tf32 = False
    a = torch.randn((8192, 8192), device="cuda")
    product = statistics.median(milliseconds(torch.matmul, a, a))
    # A product is made of 8192^3 fused multiply-adds.
    return {BYTES: 2e3 * source.nbytes / copy, OPERATIONS: 1e3 * 8192**3 / product}


def moments(n_channels: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Return count, mean and m2 ``[L, C]`` of a layer."""
    count, mean, std = digests.statistics(n_channels, CLASSES)
    return move(tuple(part.T.contiguous() for part in (count, mean, std**2 * count)), device)


def select(kernels: Backend, layers: Sequence[tuple[torch.Tensor, ...]]) -> object:
    """Whole selections of several layers at once, but for the knee: a third of each is kept."""
    names = tuple(map(str, range(CLASSES)))

    def embedded(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
        found, _, _ = class_statistics(ClassMoments(*parts, names))
        return tsne_of_distances(kernels.separability_distances(found).squared).embedding

    kept = []
    for sweep in kmedoids_sweeps(list(kernels.map(embedded, layers))):
        n = len(sweep.ks) + 2
        weights = torch.arange(n, device=sweep.ks.device)
        kept.append(choose_by_weight(sweep.clustering(n // 3).cluster_labels, weights))
    return kept


def distances(kernels: Backend, values: Any) -> object:
    """Distances between channels by the separability of their classes."""
    return kernels.separability_distances(values)


def yolov8x() -> list[int]:
    """Channels of the convolutions before the head of YOLOv8x."""
    widths = [80, 160, 320, 640, 640, 320, 640, 320, 640]
    blocks = (160, 3), (320, 6), (640, 6), (640, 3), (640, 3), (320, 3), (640, 3), (640, 3)
    for width, n in blocks:
        widths += [width, width] + [width // 2] * (2 * n)
    return widths


def cases(kernels: Backend, device: torch.device, n: int) -> Iterator[Case]:
    """Yield what is timed with n channels, its inputs on the device."""
    points = torch.rand((n, 2), generator=torch.Generator().manual_seed(n)).to(device)
    # Every distance written and read once is the least that any sweep does.
    yield Case("kmedoids_sweep", n, 8.0 * n * n, BYTES, kernels.kmedoids_sweep, ([points],))
    medoids = torch.arange(0, n, 4, device=device)
    work = 40.0 * n + 16.0 * len(medoids)
    silhouette = kernels.simplified_silhouette
    yield Case("simplified_silhouette", n, work, BYTES, silhouette, (points, medoids))
    yield from steps(kernels, device, n)


def all_layers(kernels: Backend, device: torch.device) -> Iterator[Case]:
    """Yield the selection of all layers of a YOLOv8x in one call."""
    widths = yolov8x()
    layers = [moments(n, device) for n in widths]
    work = sum(1000.0 * TSNE_OPERATIONS * n * n * len(_learning_rates(n, "auto")) for n in widths)
    yield Case("yolov8x", len(widths), work, OPERATIONS, select, (kernels, layers))


def many_pairs(kernels: Backend, device: torch.device) -> Iterator[Case]:
    """Yield the distances by so many pairs of classes that they go tile by tile."""
    n, n_classes = MANY
    values = move(digests.statistics(n, n_classes), device)
    work = 16.0 * n * (n_classes * (n_classes - 1) // 2)  # each separability written and read
    yield Case("many_pairs", n, work, BYTES, distances, (kernels, values))


def steps(kernels: Backend, device: torch.device, n: int) -> Iterator[Case]:
    """Yield the steps up to the embedding of n channels, and their whole selection."""
    features = torch.ones((8, n, 20, 20), dtype=torch.float16, device=device)
    cells = torch.zeros((SAMPLES, 3), dtype=torch.int64, device=device)
    labels = torch.arange(SAMPLES, device=device) % CLASSES
    sums = [
        torch.zeros((CLASSES, n), dtype=dtype, device=device)
        for dtype in (torch.int64, torch.float64, torch.float64)
    ]
    gathered = features, cells, labels, tuple(sums)
    work = float(SECTOR * SAMPLES * n)
    yield Case("gather_class_moments", n, work, BYTES, kernels.gather_class_moments, gathered)
    values = move(digests.statistics(n, CLASSES), device)
    work = 4.0 * n * (CLASSES * (CLASSES - 1) // 2)
    yield Case("jeffries_matusita", n, work, BYTES, kernels.jeffries_matusita, (values,))
    squared = kernels.separability_distances(values).squared
    p = kernels.affinities(squared, min(10.0, (n - 1) / 3))
    start = kernels.principal_axes(squared) * 1e-4
    yield Case("affinities", n, 12.0 * n * n, BYTES, kernels.affinities, (squared, 10.0))
    yield Case("principal_axes", n, 264.0 * n * n, BYTES, kernels.principal_axes, (squared,))
    work = 1000.0 * TSNE_OPERATIONS * n * n
    yield Case("tsne", n, work, OPERATIONS, kernels.tsne, (p, start, 1000, 12.0, [n / 10.0]))
    work *= len(_learning_rates(n, "auto"))
    yield Case("selection", n, work, OPERATIONS, select, (kernels, [moments(n, device)]))


def timings(
    kernels: Backend,
    limits: dict[str, float],
    device: torch.device | str = "cuda",
    sizes: Sequence[int] = SIZES,
    *,
    with_cpu: bool = True,
) -> Iterator[dict[str, object]]:
    """Time the kernels, and the CPU's in the same run where that ends within reason."""
    cpu = cpu_kernels() if with_cpu else None
    where = torch.device(device)
    whole = all_layers(kernels, where), many_pairs(kernels, where)
    for found in (*(cases(kernels, where, n) for n in sizes), *whole):
        try:
            for case in found:
                row = timed(case, limits, cpu)
                print(row, flush=True)
                yield row
        except InputError as error:  # more than the device's memory
            print(error, flush=True)
            yield {"error": str(error)}


def cpu_kernels() -> Any:
    """Return the CPU's kernels, None on a machine without Numba."""
    try:
        from actprune_gpu.backends.cpu import CpuBackend
    except ImportError:
        return None
    return CpuBackend()


def timed(case: Case, limits: dict[str, float], cpu: Any) -> dict[str, object]:
    """Return a row of the results."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    times = milliseconds(case.call, *case.arguments)
    time = statistics.median(times)
    floor = 1e3 * case.work / limits[case.unit]
    row: dict[str, object] = {"case": case.name, "n": case.n, "milliseconds": time}
    row |= {"floor_milliseconds": floor, "achieved": 1e3 * case.work / time, "unit": case.unit}
    row |= {"share_of_ceiling": floor / time, "fastest": times[0], "slowest": times[-1]}
    if torch.cuda.is_available():
        row["peak_bytes"] = torch.cuda.max_memory_allocated()
    if cpu is not None and case.n <= LARGEST_ON_CPU:
        row["cpu_milliseconds"] = on_cpu(cpu, case)
    return row


def on_cpu(cpu: Any, case: Case) -> float:
    """Return the time of a case on the CPU, of a second call unless the first takes seconds."""
    arguments = [move(value, "cpu") for value in case.arguments]
    call = getattr(cpu, case.name, case.call)
    if call is case.call:
        arguments[0] = cpu
    for _ in range(2):
        start = perf_counter()
        call(*arguments)
        time = perf_counter() - start
        if time > 5.0 and case.n > min(SIZES):  # compiled already
            break
    return 1e3 * time
