"""Chains of clusterings along the k axis, and what is noted of each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import boolean, float64, int32, int64, uint8

from ..ahead import Ahead
from ..compile import compile_for, device, kernel
from ..math import float_bits
from .cross import cross
from .kicks import n_kicks, shake
from .search import build, descend, evaluate, remove_cheapest
from .state import (
    DISTANCE_SUM,
    MEDOID,
    NEAR,
    NEAR_DISTANCE,
    SECOND_DISTANCE,
    SIZE,
    load,
    loss_of,
)

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


_STATE = float64[:, ::1], int64[:, ::1]


def compile_chain() -> None:
    """Compile `chain` for what `sweep` passes it, or load it."""
    best = numba.typeof(empty_best(4))
    arrays = int32[:, ::1], *_STATE, *_STATE, uint8[::1]
    compile_for(chain, *arrays, int64, int64, int64, boolean, best)


def compile_evaluate() -> None:
    """Compile what `chain` finds on disk then."""
    compile_for(evaluate, int32[:, ::1], *_STATE, int64)


ahead = Ahead(chain, f"from {__name__} import compile_chain; compile_chain()", compile_evaluate)
