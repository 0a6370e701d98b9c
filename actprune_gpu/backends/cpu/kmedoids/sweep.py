"""The sweep over every number of clusters, and the silhouettes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ...protocol import Sweep
from ..compile import kernel
from ..math import float_bits
from ..threads import Tasks, n_threads
from .search import build, descend, remove_cheapest
from .space import BLOCK, Space, find_pivots, fixed_point, spatial_order
from .state import State, add, clear, load, view

_LONGEST_SEGMENT = 512  # values of k
_FEW_CLUSTERS = 64  # with more, going back to the best costs more than it gives
_WAYS_FEW_POINTS = 2  # down and up again after the first way up
_WAYS = 1
_MIN_PARALLEL = 192  # points; with fewer, other threads wake up too late to help
# Silhouettes are summed in this fixed point, exact in any order; adding 1.5 * 2**52 rounds to it.
_SILHOUETTE_UNIT = 2.0**40
_ROUND = 6755399441055744.0


@kernel
def silhouettes(near, second, distance_sum, size, k):
    """Return the mean simplified silhouette in both definitions.

    Args: ``near``, ``second``, ``distance_sum`` ``[N]`` float64 distances to the nearest and the
    second nearest medoid and to all of them, ``size [N]`` int64 of each point's cluster.
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
        nearest = (b - a) / max(b, 1.0) if size[j] > 1 else 0.0
        nearest_sum += float_bits(nearest * _SILHOUETTE_UNIT + _ROUND) - zero
    mean = np.float64(mean_sum) / _SILHOUETTE_UNIT / counted if counted else 1.0
    return mean, np.float64(nearest_sum) / _SILHOUETTE_UNIT / n


@kernel
def record(s, n, k, loss, mss_mean, mss_nearest, is_medoid):
    """Note down the clustering if it beats the one noted for k; return whether it is no worse."""
    total = 0.0
    for j in range(n):
        total += s.near_distance[j]
    if total >= loss[k - 2]:
        return total == loss[k - 2]
    loss[k - 2] = total
    mss_mean[k - 2], mss_nearest[k - 2] = silhouettes(
        s.near_distance[:n], s.second_distance[:n], s.distance_sum[:n], s.size[s.near[:n]], k
    )
    is_medoid[k - 2] = 0
    for t in range(k):
        is_medoid[k - 2, s.medoids[t]] = 1
    return True


@kernel
def ascend(space, s, first, last, loss, mss_mean, mss_nearest, is_medoid):
    """Cluster for k = first..last-1, from the first ``first`` medoids of BUILD."""
    for k in range(first, last):
        if k > first:
            build(space, s, k - 1, k)
        descend(space, s, k)
        record(s, space.distances.shape[0], k, loss, mss_mean, mss_nearest, is_medoid)


@kernel
def revise(space, s, start, k, stop, step, loss, mss_mean, mss_nearest, is_medoid):
    """Go from the medoids ``start`` of k up or down to ``stop``, noting what lowers the loss."""
    n = space.distances.shape[0]
    load(space, s, start)
    while k != stop:
        k += step
        if step > 0:
            build(space, s, k - 1, k)
        else:
            remove_cheapest(space, s, k)
        descend(space, s, k)
        no_worse = record(s, n, k, loss, mss_mean, mss_nearest, is_medoid)
        if not no_worse and k < _FEW_CLUSTERS:
            load(space, s, is_medoid[k - 2])  # go on from the best


def segments(n_points: int, shortest: int, few_points: int | None = None) -> list[tuple[int, int]]:
    """Return ranges ``(first, last)`` of k that cover 2..n_points-1, each done in a chain.

    They double in length, as the work for one k falls about as 1 / k, up to a limit. Few points
    are worked on by one thread: theirs have the length ``few_points``, or are one chain.
    """
    if n_points < _MIN_PARALLEL:
        bounds = [*range(2, n_points, few_points or n_points), n_points]
        return list(pairwise(bounds))
    bounds = [2]
    length = shortest
    while bounds[-1] < n_points:
        bounds.append(min(bounds[-1] + length, n_points))
        length = min(bounds[-1], _LONGEST_SEGMENT)
    return list(pairwise(bounds))


def kmedoids_sweep(points: Tensor) -> Sweep:
    values = points.double().numpy()
    n = len(values)
    order = spatial_order(values)
    distances, unit = fixed_point(values[order])
    n_padded = distances.shape[1]
    n_blocks = n_padded // BLOCK
    numbers = np.append(order, np.arange(n, n_padded))
    space = Space(distances, np.empty(n_blocks, np.int64), np.empty(n_blocks), numbers)
    find_pivots(*space)
    loss, mss_mean, mss_nearest = np.full((3, n - 2), np.inf)
    is_medoid = np.zeros((n - 2, n), np.uint8)
    totals = distances[:, :n].sum(1, dtype=np.int64)
    central = int(np.lexsort((order, totals))[0])

    state = np.empty((len(State._fields), n_padded))

    notes = (loss, mss_mean, mss_nearest, is_medoid)

    workers = 1 if n < _MIN_PARALLEL else n_threads()
    clear(space, view(state))
    add(space, view(state), 0, central)
    built = 1
    with Tasks(workers) as tasks:
        # BUILD is nested: one run of it passes by the start of every segment.
        for first, last in segments(n, 2, few_points=4):
            build(space, view(state), built, first)
            built = first
            tasks.add(ascend, space, view(state.copy()), first, last, *notes)
    for way in range(_WAYS_FEW_POINTS if n < _MIN_PARALLEL else _WAYS):
        down = way % 2 == 0
        # Shifted against the segments before, so that what is good gets across their bounds; each
        # starts from what was noted before any of them began.
        before = is_medoid.copy()
        with Tasks(workers) as tasks:
            for first, last in segments(n, 4 if down else 2):
                k, stop = (min(last, n - 1), first) if down else (max(first - 1, 2), last - 1)
                own, step = view(np.empty_like(state)), -1 if down else 1
                tasks.add(revise, space, own, before[k - 2], k, stop, step, *notes)
    by_number = np.empty_like(is_medoid)
    by_number[:, order] = is_medoid
    return Sweep(
        torch.from_numpy(loss * unit),
        torch.from_numpy(mss_mean),
        torch.from_numpy(mss_nearest),
        torch.from_numpy(np.packbits(by_number, axis=1, bitorder="little")),
    )


def simplified_silhouette(points: Tensor, medoids: Tensor) -> tuple[float, float]:
    distances, _ = fixed_point(points.double().numpy())
    to_medoids = distances[:, np.sort(medoids.numpy())].astype(np.float64)
    cluster = to_medoids.argmin(1)
    near, second = np.partition(to_medoids, 1, axis=1)[:, :2].T
    size = np.bincount(cluster)[cluster]
    mean, nearest = silhouettes(
        near.copy(), second.copy(), to_medoids.sum(1), size, to_medoids.shape[1]
    )
    return float(mean), float(nearest)
