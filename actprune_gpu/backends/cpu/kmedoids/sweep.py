"""The sweep over every number of clusters, and the silhouettes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...plane import ONE_CHAIN, distance_unit, segments, spatial_order
from ...protocol import Sweep
from ..compile import device, kernel
from ..math import float_bits
from ..threads import Tasks, map_items, n_threads
from .kicks import shake
from .search import build, descend, remove_cheapest
from .space import BLOCK, NUMBER, find_pivots, fixed_point
from .state import (
    DISTANCE_SUM,
    MEDOID,
    N_FLOATS,
    N_INTEGERS,
    NEAR,
    NEAR_DISTANCE,
    SECOND_DISTANCE,
    SIZE,
    load,
    loss_of,
)

_FEW_CLUSTERS = 64  # with more, going back to the best costs more than it gives
_MIN_PARALLEL = 48  # points; with fewer, another thread wakes up too late to help
# Silhouettes are summed in this fixed point, exact in any order; adding 1.5 * 2**52 rounds to it.
_SILHOUETTE_UNIT = 2.0**40
_ROUND = 6755399441055744.0


@kernel
def silhouettes(near, second, distance_sum, cluster, size, k):
    """Return the mean simplified silhouette in both definitions.

    Args: ``near``, ``second``, ``distance_sum`` ``[N]`` float64 distances to the nearest and the
    second nearest medoid and to all of them; int64 ``cluster [N]`` of each point, their ``size``.
    """
    n = near.shape[0]
    others = 1.0 / (k - 1)
    zero = float_bits(_ROUND)
    mean_sum, nearest_sum, counted = np.int64(0), np.int64(0), np.int64(0)
    for j in range(n):
        a = near[j]
        b = (distance_sum[j] - a) * others
        mean = (b - a) / max(max(a, b), 1.0) if a > 0.0 else 0.0
        counted += a > 0.0
        mean_sum += float_bits(mean * _SILHOUETTE_UNIT + _ROUND) - zero
        b = second[j]
        nearest = (b - a) / max(b, 1.0) if size[cluster[j]] > 1 else 0.0
        nearest_sum += float_bits(nearest * _SILHOUETTE_UNIT + _ROUND) - zero
    mean = np.float64(mean_sum) / _SILHOUETTE_UNIT / counted if counted else 1.0
    return mean, np.float64(nearest_sum) / _SILHOUETTE_UNIT / n


class Best(NamedTuple):
    """The best clustering seen for each k = 2..N-1, which is entry k - 2."""

    loss: Any  # [N - 2] float64
    mss_mean: Any
    mss_nearest: Any
    is_medoid: Any  # [N - 2, N] uint8


def empty_best(n_points: int) -> Best:
    loss, mss_mean, mss_nearest = np.full((3, n_points - 2), np.inf)
    return Best(loss, mss_mean, mss_nearest, np.zeros((n_points - 2, n_points), np.uint8))


@device
def record(f, i, k, best):
    """Note down the clustering if it beats the one noted for k; return whether it is no worse."""
    n = best.is_medoid.shape[1]
    loss = loss_of(f, n)
    if loss >= best.loss[k - 2]:
        return loss == best.loss[k - 2]
    best.loss[k - 2] = loss
    best.mss_mean[k - 2], best.mss_nearest[k - 2] = silhouettes(
        f[NEAR_DISTANCE, :n], f[SECOND_DISTANCE, :n], f[DISTANCE_SUM, :n], i[NEAR], i[SIZE], k
    )
    best.is_medoid[k - 2] = 0
    for t in range(k):
        best.is_medoid[k - 2, i[MEDOID, t]] = 1
    return True


@kernel
def grow(d, f, i, is_medoid, k, last):
    """Add to the k medoids flagged in ``is_medoid`` until they are ``last``: PAM's BUILD."""
    load(d, f, i, is_medoid)
    build(d, f, i, k, last)
    for t in range(k, last):
        is_medoid[i[MEDOID, t]] = 1


@kernel
def chain(d, f, i, spare_f, spare_i, is_medoid, k, stop, step, best):
    """Walk from the k medoids flagged in ``is_medoid`` by steps of 1 or -1 to before ``stop``."""
    load(d, f, i, is_medoid)
    random = np.uint64(k)
    while k + step != stop:
        k += step
        if step > 0:
            build(d, f, i, k - 1, k)
        else:
            remove_cheapest(d, f, i, k)
        descend(d, f, i, k)
        random = shake(d, f, i, k, spare_f, spare_i, random)
        if not record(f, i, k, best) and k < _FEW_CLUSTERS:
            load(d, f, i, best.is_medoid[k - 2])  # go on from the best


class Points:
    """The points of a sweep, and room for chains to work on them."""

    def __init__(self, points: Tensor) -> None:
        n = len(points)
        self.unit = distance_unit(points)
        order = spatial_order(points)
        self.order = order.numpy()
        self.distances = fixed_point(points[order].numpy(), self.unit)
        n_padded = -(-n // BLOCK) * BLOCK
        self._f, self._i = (
            np.zeros((N_FLOATS, n_padded)),
            np.zeros((N_INTEGERS, n_padded), np.int64),
        )
        self._i[NUMBER] = np.append(self.order, np.arange(n, n_padded))
        find_pivots(self.distances, self._f, self._i)

    def room(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return arrays f and i for one chain."""
        return self._f.copy(), self._i.copy()

    def chain(
        self, tasks: Tasks, is_medoid: NDArray[np.uint8], k: int, stop: int, best: Best
    ) -> None:
        """Let a chain go from the k medoids flagged in ``is_medoid`` to before ``stop``."""
        step = 1 if stop > k else -1
        tasks.add(chain, self.distances, *self.room(), *self.room(), is_medoid, k, stop, step, best)

    def first_medoid(self) -> NDArray[np.uint8]:
        """Flag the point with the smallest sum of distances."""
        n = len(self.order)
        totals = self.distances[:, :n].sum(1, dtype=np.int64)
        is_medoid = np.zeros(n, np.uint8)
        is_medoid[np.lexsort((self.order, totals))[0]] = 1
        return is_medoid


def there_and_back(points: Points, best: Best) -> None:
    """Sweep in two chains at once: up from BUILD, and down from every point being a medoid."""
    n = len(points.order)
    back = empty_best(n)
    with Tasks(n_threads() if n >= _MIN_PARALLEL else 1) as tasks:
        points.chain(tasks, points.first_medoid(), 1, n, best)
        points.chain(tasks, np.ones(n, np.uint8), n, 1, back)
    better = back.loss < best.loss
    for noted, other in zip(best, back, strict=True):
        noted[better] = other[better]


def in_segments(points: Points, best: Best) -> None:
    """Sweep in many chains: up from BUILD's medoids, then down from the best so far."""
    n = len(points.order)
    is_medoid, k = points.first_medoid(), 1
    with Tasks(n_threads()) as tasks:
        # BUILD is nested: one run of it passes by the start of every segment.
        for first, last in segments(n, 2):
            grow(points.distances, *points.room(), is_medoid, k, first - 1)
            k = first - 1
            points.chain(tasks, is_medoid.copy(), k, last, best)
    # Shifted against the segments before, so that what is good gets across their bounds; each
    # starts from what was noted before any of them began.
    starts = best.is_medoid.copy()
    with Tasks(n_threads()) as tasks:
        for first, last in segments(n, 4):
            k = min(last, n - 1)
            points.chain(tasks, starts[k - 2], k, first - 1, best)


def kmedoids_sweep(points: Sequence[Tensor]) -> list[Sweep]:
    return list(map_items(_sweep, points))


def _sweep(points: Tensor) -> Sweep:
    values = Points(points.double())
    n = len(points)
    best = empty_best(n)
    sweep = there_and_back if n < ONE_CHAIN else in_segments
    sweep(values, best)
    by_number = np.empty_like(best.is_medoid)
    by_number[:, values.order] = best.is_medoid
    return Sweep(
        torch.from_numpy(best.loss * values.unit),
        torch.from_numpy(best.mss_mean),
        torch.from_numpy(best.mss_nearest),
        torch.from_numpy(np.packbits(by_number, axis=1, bitorder="little")),
    )


def simplified_silhouette(points: Tensor, medoids: Tensor) -> tuple[float, float]:
    values = points.double()
    distances = fixed_point(values.numpy(), distance_unit(values))
    to_medoids = distances[:, np.sort(medoids.numpy())].astype(np.float64)
    cluster = to_medoids.argmin(1)
    near, second = np.partition(to_medoids, 1, axis=1)[:, :2].T
    mean, nearest = silhouettes(
        near.copy(),
        second.copy(),
        to_medoids.sum(1),
        cluster,
        np.bincount(cluster),
        to_medoids.shape[1],
    )
    return float(mean), float(nearest)
