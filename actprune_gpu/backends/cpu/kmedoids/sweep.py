"""The sweep over every number of clusters, and the silhouettes."""

from __future__ import annotations

from collections.abc import Sequence

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
from ..threads import Tasks, map_items, n_threads
from .chain import Best, ahead, chain, empty_best, grow, silhouettes
from .space import BLOCK, NUMBER, find_pivots, fixed_point
from .state import N_FLOATS, N_INTEGERS

_MIN_PARALLEL = 48  # points; with fewer, another thread wakes up too late to help


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
        f, i = self.room()
        spare = np.empty_like(f), np.empty_like(i)
        tasks.add(chain, self.distances, f, i, *spare, is_medoid, k, stop, step, crossed, best)

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
    return list(map_items(_sweep, points))


def _sweep(points: Tensor) -> Sweep:
    values = Points(points.double())
    ahead.wait()
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
