"""The sweep over every number of clusters, and the silhouettes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...plane import (
    at_random,
    distance_unit,
    fourth_pass,
    has_segments,
    middle,
    second_pass,
    segments,
    spatial_order,
    third_pass,
)
from ...protocol import Sweep
from ..ahead import Ahead
from ..compile import device, kernel
from ..math import float_bits
from ..threads import Tasks, map_items, n_threads
from .cross import cross
from .kicks import n_kicks, shake
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
    near: Any  # [N - 2, N] int16 if N fits in that, else int32: each point's medoid


def empty_best(n_points: int) -> Best:
    shape = n_points - 2, n_points
    loss, mss_mean, mss_nearest = np.full((3, n_points - 2), np.inf)
    near = np.empty(shape, np.int16 if n_points < 2**15 else np.int32)
    return Best(loss, mss_mean, mss_nearest, np.zeros(shape, np.uint8), near)


@device
def record(f, i, k, best):
    """Note down the clustering if it beats the one noted for k."""
    n = best.is_medoid.shape[1]
    loss = loss_of(f, n)
    if loss >= best.loss[k - 2]:
        return
    best.loss[k - 2] = loss
    best.mss_mean[k - 2], best.mss_nearest[k - 2] = silhouettes(
        f[NEAR_DISTANCE, :n], f[SECOND_DISTANCE, :n], f[DISTANCE_SUM, :n], i[NEAR], i[SIZE], k
    )
    is_medoid, near = best.is_medoid[k - 2], best.near[k - 2]
    for j in range(n):
        is_medoid[j] = 0
        near[j] = i[NEAR, j]
    for t in range(k):
        is_medoid[i[MEDOID, t]] = 1


@kernel
def grow(d, f, i, is_medoid, k, last):
    """Add to the k medoids flagged in ``is_medoid`` until they are ``last``: PAM's BUILD."""
    load(d, f, i, is_medoid)
    build(d, f, i, k, last)
    for t in range(k, last):
        is_medoid[i[MEDOID, t]] = 1


@kernel
def chain(d, f, i, spare_f, spare_i, is_medoid, k, stop, step, crossed, best):
    """Walk from the k medoids flagged in ``is_medoid`` by steps of 1 or -1 to before ``stop``."""
    load(d, f, i, is_medoid)
    random = np.uint64(k)
    while k + step != stop:
        k += step
        if step > 0:
            build(d, f, i, k - 1, k)
        else:
            remove_cheapest(d, f, i, k)
        for crossing in range(1 + crossed):  # one call of descend, as in `shake`
            if crossing:
                cross(d, f, i, k, best.near[k - 2], best.is_medoid[k - 2])
            descend(d, f, i, k)
        kicks = n_kicks(d.shape[0], k, crossed)
        random = shake(d, f, i, k, spare_f, spare_i, random, kicks)
        record(f, i, k, best)


ahead = Ahead(
    chain,
    f"import torch; from {__name__} import kmedoids_sweep; kmedoids_sweep([torch.eye(4)[:, :2]])",
)


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
        find_pivots(self.distances, self._f, np.empty(n_padded // BLOCK, np.int64))

    def room(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return arrays f and i for one chain."""
        return self._f.copy(), self._i.copy()

    def chain(
        self,
        tasks: Tasks,
        is_medoid: NDArray[np.uint8],
        ks: tuple[int, int],
        best: Best,
        *,
        crossed: bool = False,
    ) -> None:
        """Let a chain go from the medoids flagged in ``is_medoid``, so many, to before a stop."""
        k, stop = ks
        step = 1 if stop > k else -1
        rooms = *self.room(), *self.room()
        tasks.add(chain, self.distances, *rooms, is_medoid, k, stop, step, crossed, best)

    def first_medoid(self) -> NDArray[np.uint8]:
        """Flag the point with the smallest sum of distances."""
        n = len(self.order)
        totals = self.distances[:, :n].sum(1, dtype=np.int64)
        return _flags(n, np.lexsort((self.order, totals))[:1])


def from_both_ends(points: Points, best: Best, tasks: Tasks) -> None:
    """Sweep up from BUILD, and down from every point being a medoid, to the middle."""
    n = len(points.order)
    points.chain(tasks, np.ones(n, np.uint8), (n, middle(n) - 1), best)
    points.chain(tasks, points.first_medoid(), (1, middle(n)), best)


def in_segments(points: Points, best: Best, tasks: Tasks) -> None:
    """Sweep in many chains, up from BUILD's medoids."""
    is_medoid, k = points.first_medoid(), 1
    # BUILD is nested: one run of it passes by the start of every segment.
    for first, last in segments(len(points.order), 2):
        grow(points.distances, *points.room(), is_medoid, k, first - 1)
        k = first - 1
        points.chain(tasks, is_medoid.copy(), (k, last), best)


def kmedoids_sweep(points: Sequence[Tensor]) -> list[Sweep]:
    ahead.wait()
    return list(map_items(_sweep, points))


def _sweep(points: Tensor) -> Sweep:
    values = Points(points.double())
    n = len(points)
    best = empty_best(n)
    workers = n_threads() if n >= _MIN_PARALLEL else 1
    first_pass = in_segments if has_segments(n) else from_both_ends
    with Tasks(workers) as tasks:
        first_pass(values, best, tasks)
    for steps, start_of in (
        (second_pass(n), lambda k: best.is_medoid[k - 2].copy()),
        (third_pass(n), lambda k: _flags(n, at_random(n).numpy()[:k])),
        (fourth_pass(n), lambda k: _flags(n, np.flatnonzero(best.is_medoid[2 * k - 2])[::2])),
    ):
        # From what was noted before any of these begins.
        starts = [start_of(k) for k, _ in steps]
        with Tasks(workers) as tasks:
            for start, ks in zip(starts, steps, strict=True):
                values.chain(tasks, start, ks, best, crossed=True)
    by_number = np.empty_like(best.is_medoid)
    by_number[:, values.order] = best.is_medoid
    return Sweep(
        torch.from_numpy(best.loss * values.unit),
        torch.from_numpy(best.mss_mean),
        torch.from_numpy(best.mss_nearest),
        torch.from_numpy(np.packbits(by_number, axis=1, bitorder="little")),
    )


def _flags(n_points: int, medoids: NDArray[np.int64]) -> NDArray[np.uint8]:
    is_medoid = np.zeros(n_points, np.uint8)
    is_medoid[medoids] = 1
    return is_medoid


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
