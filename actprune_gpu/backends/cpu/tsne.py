"""Exact t-SNE (van der Maaten and Hinton 2008): the optimisation, and its divergence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .barrier import wait_for_all
from .compile import device, inlined, kernel
from .lanes import LANES, VECTOR, add_up, butterfly, fma, load, splat, sum_of_lanes
from .math import log
from .threads import in_step, in_threads, n_threads

Floats = NDArray[np.floating[Any]]

_EXPLORATION = 250  # iterations with early exaggeration and the lower momentum
_CHECK_EVERY = 50
_MIN_GRADIENT_NORM = 1e-7
_MIN_PAIRS = 1 << 14  # of points, in an iteration, for which a thread is worth waiting for
# So far away that the squared distance is infinite in fp32, and no coordinate is.
_FAR = 1e30


@kernel
def _divergence_rows(p, y, first, last, out, lanes):
    """Fill ``out [3, N]`` with every row's sum of p, of q and of p (ln p + ln(1 + d^2))."""
    n = p.shape[0]
    for i in range(first, last):
        lanes[:] = 0.0
        for base in range(0, n, LANES):
            for lane in range(min(LANES, n - base)):
                j = np.uintp(base + lane)
                if j != i:
                    dx = np.float64(y[0, i]) - np.float64(y[0, j])
                    dy = np.float64(y[1, i]) - np.float64(y[1, j])
                    d = 1.0 + dx * dx + dy * dy
                    lanes[1, lane] += 1.0 / d
                    if p[i, j] > 0.0:
                        pij = np.float64(p[i, j])
                        lanes[0, lane] += pij
                        lanes[2, lane] += pij * log(pij * d)
        for part in range(3):
            out[part, i] = sum_of_lanes(lanes[part])


def _kl_divergence(p: Floats, y: Floats) -> float:
    """Return sum p ln(p / (q / Z)) = sum p ln(p (1 + d^2)) + ln Z sum p, in float64."""
    rows = np.empty((3, p.shape[0]))
    in_threads(
        lambda first, last: _divergence_rows(p, y, first, last, rows, np.empty((3, LANES))),
        n_items=p.shape[0],
        work=4 * p.size,
    )
    lanes = np.empty(LANES)
    p_sum, z, kl = (add_up(part, lanes) for part in rows)
    return float(kl + p_sum * log(z))


@device
def _gradient_rows(p, y, first, last, sums):
    """Fill ``sums [5, N]`` for rows first..last-1: of q, then of attraction and repulsion by axis.

    ``p`` and ``y`` are padded, see `_pad`.
    """
    one, x_row, y_row = np.float32(1.0), y[0], y[1]
    ones, zeros = splat(one), splat(np.float32(0.0))
    for i in range(first, last):
        row, xi, yi = p[i], x_row[i], y_row[i]
        q_sum = zeros
        attraction_x, attraction_y, repulsion_x, repulsion_y = zeros, zeros, zeros, zeros
        for half in range(0, min(LANES, p.shape[1]), VECTOR):
            z, pqx, pqy, qqx, qqy = zeros, zeros, zeros, zeros, zeros
            for base in range(half, p.shape[1], LANES):
                j = np.uintp(base)
                dx, dy = xi - load(x_row, j), yi - load(y_row, j)
                q = one / fma(dy, dy, fma(dx, dx, ones))
                pq = load(row, j) * q
                qq = q * q
                z += q
                pqx = fma(pq, dx, pqx)
                pqy = fma(pq, dy, pqy)
                qqx = fma(qq, dx, qqx)
                qqy = fma(qq, dy, qqy)
            q_sum += z
            attraction_x += pqx
            attraction_y += pqy
            repulsion_x += qqx
            repulsion_y += qqy
        sums[0, i] = butterfly(q_sum) - one  # without the point itself
        sums[1, i], sums[2, i] = butterfly(attraction_x), butterfly(attraction_y)
        sums[3, i], sums[4, i] = butterfly(repulsion_x), butterfly(repulsion_y)


@inlined
def _gradient_of(sums, axis, i, exaggeration, inverse):
    return np.float32(4.0) * (exaggeration * sums[1 + axis, i] - sums[3 + axis, i] * inverse)


@device
def _gradient_norm(sums, exaggeration, inverse, lanes):
    lanes[:] = 0.0
    for axis in range(2):
        for i in range(sums.shape[1]):
            gradient = np.float64(_gradient_of(sums, axis, i, exaggeration, inverse))
            lanes[i % LANES] += gradient * gradient
    return np.sqrt(sum_of_lanes(lanes))


@device
def _descend(y, sums, state, first, last, fresh, exaggeration, inverse, momentum, rate):
    """Move points first..last-1 by one step.

    ``state [4, N]`` is the last one, then the gains, by axis; if ``fresh`` there is none yet.
    """
    for axis in range(2):
        for i in range(first, last):
            j = np.uintp(i)
            gradient = _gradient_of(sums, axis, j, exaggeration, inverse)
            update = np.float32(0.0) if fresh else state[axis, j]
            gain = np.float32(1.0) if fresh else state[2 + axis, j]
            if update * gradient < np.float32(0.0):
                gain += np.float32(0.2)
            else:
                gain = max(gain * np.float32(0.8), np.float32(0.01))
            update = momentum * update - rate * gain * gradient
            state[axis, j] = update
            state[2 + axis, j] = gain
            y[axis, j] += update


@kernel
def _optimise(
    arrivals, part, p, y, n_iter, early_exaggeration, learning_rates, sums, state, lanes, n_done
):
    """Gradient descent with momentum and gains from ``y [runs, 2, N]``, in place.

    dKL/dy_i = 4 (sum_j p_ij q_ij (y_i - y_j) - 1/Z sum_j q_ij^2 (y_i - y_j)), with the
    unnormalised q_ij = 1 / (1 + |y_i - y_j|^2) and Z their sum (van der Maaten and Hinton, eq. 5).
    The gains are Jacobs' delta-bar-delta as in the authors' code. The runs differ in their
    learning rates; one that ends before ``n_iter`` has that put down in ``n_done [runs]``. ``p``
    and ``y`` are padded, see `_pad`; ``sums [runs, 5, N]``, ``state [runs, 4, N]`` and
    ``lanes [parts, LANES]`` are room to work in. Each part does its share of the rows of all runs.
    """
    n, n_runs, n_parts = p.shape[0], y.shape[0], lanes.shape[0]
    first, last = n * part // n_parts, n * (part + 1) // n_parts
    passed = 0
    for iteration in range(n_iter):
        exploring = iteration < _EXPLORATION
        # What was learnt of the exaggerated map does not help afterwards.
        fresh = iteration == 0 or iteration == _EXPLORATION
        exaggeration = np.float32(early_exaggeration if exploring else 1.0)
        momentum = np.float32(0.5 if exploring else 0.8)
        check = not exploring and (iteration + 1) % _CHECK_EVERY == 0
        for run in range(n_runs):
            if n_done[run] > iteration:
                _gradient_rows(p, y[run], first, last, sums[run])
        passed += n_parts
        wait_for_all(arrivals, passed)
        for run in range(n_runs):
            if n_done[run] > iteration:
                inverse = np.float32(1.0 / add_up(sums[run, 0], lanes[part]))
                rate = learning_rates[run]
                _descend(
                    y[run],
                    sums[run],
                    state[run],
                    first,
                    last,
                    fresh,
                    exaggeration,
                    inverse,
                    momentum,
                    rate,
                )
                if check:
                    norm = _gradient_norm(sums[run], exaggeration, inverse, lanes[part])
                    if norm <= _MIN_GRADIENT_NORM:  # all parts alike
                        n_done[run] = iteration + 1
        passed += n_parts
        wait_for_all(arrivals, passed)


def _pad(array: Floats, value: float) -> Floats:
    """Return ``array`` with ``value`` at the end of its rows, to a multiple of 16 columns.

    Affinities with 0 and coordinates with `_FAR` change no sum: q is 1 / infinity, exactly 0.
    """
    missing = -array.shape[-1] % VECTOR
    widths = [(0, 0)] * (array.ndim - 1) + [(0, missing)]
    return np.pad(array, widths, constant_values=value) if missing else array


def tsne(
    affinities: Tensor,
    initial: Tensor,
    n_iter: int,
    early_exaggeration: float,
    learning_rates: Sequence[float],
) -> list[tuple[Tensor, float, int]]:
    p, n, n_runs = affinities.numpy(), affinities.shape[0], len(learning_rates)
    y = _pad(initial.T.float().repeat(n_runs, 1, 1).numpy(), _FAR)
    n_done = np.full(n_runs, n_iter)
    n_parts = max(1, min(n_threads(), n_runs * n * n // _MIN_PAIRS))
    arguments = (
        _pad(p, 0.0),
        y,
        n_iter,
        early_exaggeration,
        np.array(learning_rates, np.float32),
        np.empty((n_runs, 5, n), np.float32),
        np.empty((n_runs, 4, n), np.float32),
        np.empty((n_parts, LANES)),
        n_done,
    )
    in_step(lambda arrivals, part: _optimise(arrivals, part, *arguments), n_parts)
    maps = np.ascontiguousarray(y[:, :, :n])
    return [
        (torch.from_numpy(map_.T.copy()), _kl_divergence(p, map_), int(done))
        for map_, done in zip(maps, n_done, strict=True)
    ]
