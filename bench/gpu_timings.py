"""Times of the kernels on a GPU, what they achieve, and the CPU's in the same run.

Times are medians between CUDA events, with the L2 cache flushed before each run. What a kernel
achieves is the work that cannot be avoided, in bytes or operations, by its time.
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
from actprune_gpu.errors import InputError

REPEATS = 10
FLUSH_BYTES = 1 << 28
CYCLES_TO_LAUNCH = 2_000_000  # about a millisecond
CLASSES, SAMPLES = 80, 1000
# Operations of one pair of points in an iteration of t-SNE, none of them fused; a division counts
# as eight.
TSNE_OPERATIONS = 19
SECTOR = 32  # bytes, the least that is read of memory
SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 16384)
LARGEST_ON_CPU = 2048
# Bytes, and float32 operations without fused multiply-adds, a second.
BYTES, OPERATIONS = "bytes_per_second", "float32_per_second"


class Case(NamedTuple):
    """A call to time, the work that it cannot avoid and what that is counted in."""

    name: str
    n: int
    work: float
    unit: str
    call: Callable[..., object]
    arguments: tuple[Any, ...]


def milliseconds(function: Callable[..., object], *arguments: object) -> float:
    """Return the median time of a call, after a warm-up, from a cold L2 cache.

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
    return statistics.median(times)


def ceilings() -> dict[str, float]:
    """Bytes a second of a copy, read and written, and operations a second of a matrix product."""
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    copy = milliseconds(target.copy_, source)
    torch.backends.cuda.matmul.allow_tf32 = False
    a = torch.randn((8192, 8192), device="cuda")
    product = milliseconds(torch.matmul, a, a)
    # Half of it: the products are fused multiply-adds, our kernels have none.
    return {BYTES: 2e3 * source.nbytes / copy, OPERATIONS: 1e3 * 8192**3 / product}


def select(kernels: Backend, layers: Sequence[Any]) -> object:
    """The kernels of a whole selection, of several layers at once."""

    def embedded(values: Any) -> torch.Tensor:
        squared = kernels.separability_distances(values).squared
        n = len(squared)
        p = kernels.affinities(squared, min(10.0, (n - 1) / 3))
        start = kernels.principal_axes(squared) * 1e-4
        return min(kernels.tsne(p, start, 1000, 12.0, rates(n)), key=lambda run: run[1])[0]

    return kernels.kmedoids_sweep(list(kernels.map(embedded, layers)))


def rates(n: int) -> list[float]:
    """The learning rates of a selection: of few points, the best of three."""
    rate = max(n / 10.0, 4.0)
    return [rate, 2.0 * rate, 50.0] if rate < 50.0 else [rate]


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
    work = 8.0 * n * len(medoids)
    silhouette = kernels.simplified_silhouette
    yield Case("simplified_silhouette", n, work, OPERATIONS, silhouette, (points, medoids))
    yield from steps(kernels, device, n)


def all_layers(kernels: Backend, device: torch.device) -> Iterator[Case]:
    """Yield the selection of all layers of a YOLOv8x in one call."""
    widths = yolov8x()
    layers = [move(digests.statistics(n, CLASSES), device) for n in widths]
    work = sum(1000.0 * TSNE_OPERATIONS * n * n * len(rates(n)) for n in widths)
    yield Case("yolov8x", len(widths), work, OPERATIONS, select, (kernels, layers))


def steps(kernels: Backend, device: torch.device, n: int) -> Iterator[Case]:
    """Yield the steps up to the embedding of n channels, and their whole selection."""
    features = torch.ones((8, n, 20, 20), dtype=torch.float16, device=device)
    cells = torch.zeros((SAMPLES, 3), dtype=torch.int64, device=device)
    labels = torch.arange(SAMPLES, device=device) % CLASSES
    moments = [
        torch.zeros((CLASSES, n), dtype=dtype, device=device)
        for dtype in (torch.int64, torch.float64, torch.float64)
    ]
    gathered = features, cells, labels, tuple(moments)
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
    work *= len(rates(n))
    yield Case("selection", n, work, OPERATIONS, select, (kernels, [values]))


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
    for found in (*(cases(kernels, where, n) for n in sizes), all_layers(kernels, where)):
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
    time = milliseconds(case.call, *case.arguments)
    floor = 1e3 * case.work / limits[case.unit]
    row: dict[str, object] = {"case": case.name, "n": case.n, "milliseconds": time}
    row |= {"floor_milliseconds": floor, "achieved": 1e3 * case.work / time, "unit": case.unit}
    row["share_of_ceiling"] = floor / time
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
