"""Exact t-SNE (van der Maaten and Hinton 2008) with one order of summation.

Every sum over points is taken as a warp of 32 lanes takes it: lane l adds up the terms
j = l, l + 32, l + 64, ... and the 32 partial sums meet in a butterfly. So a GPU finds the same
bits, and so does any number of threads; here the lanes fill vector registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .compile import device, inlined, kernel, parallel_kernel
from .lanes import LANES, butterfly, load, splat
from .math import exp, log
from .threads import in_threads, n_threads

Floats = NDArray[np.floating[Any]]

_MAX_SEARCH = 64  # steps of the perplexity search
_ENTROPY_TOLERANCE = 1e-7
# Smaller conditional probabilities are 0: fp32 arithmetic on subnormal numbers is slow.
_MIN_PROBABILITY = 1e-30
_EXPLORATION = 250  # iterations with early exaggeration and the lower momentum
_CHECK_EVERY = 50
_MIN_GRADIENT_NORM = 1e-7
_LANCZOS_STEPS = 32
_ROWS = 16  # of the gradient, the unit of work for a thread
# Below this many pairs of points in an iteration, one thread finishes before others have woken up.
_MIN_PARALLEL = 1 << 15
# So far away that the squared distance is infinite in fp32, and no coordinate is.
_FAR = 1e30


@inlined
def _butterfly(lanes):
    """Add up the 32 lanes, halves onto halves, and return their sum; overwrites ``lanes``."""
    for lane in range(16):
        lanes[lane] += lanes[lane + 16]
    for lane in range(8):
        lanes[lane] += lanes[lane + 8]
    for lane in range(4):
        lanes[lane] += lanes[lane + 4]
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])


@kernel
def _sum(values, lanes):
    lanes[:] = 0.0
    for base in range(0, values.shape[0], LANES):
        for lane in range(min(LANES, values.shape[0] - base)):
            lanes[lane] += values[np.uintp(base + lane)]
    return _butterfly(lanes)


@kernel
def _conditional_rows(squared, perplexity, first, last, out, row, lanes):
    """Fill rows first..last-1 of ``out [N, N]`` with p(j | i) of the given perplexity.

    ``row [2, N]`` and ``lanes [3, LANES]`` are room to work in. Newton's method on log(beta) for
    the entropy H(beta) = ln Z + beta E[d], whose derivative is -beta^2 Var[d], kept inside the
    bracket found so far.
    """
    n = squared.shape[0]
    target = log(perplexity)
    z_lanes, d_lanes, v_lanes = lanes[0], lanes[1], lanes[2]
    distance, weight = row[0], row[1]
    for i in range(first, last):
        smallest = np.inf
        for j in range(n):
            if j != i:
                smallest = min(smallest, squared[i, j])
        z_lanes[:] = 0.0
        for base in range(0, n, LANES):
            for lane in range(min(LANES, n - base)):
                j = np.uintp(base + lane)
                distance[j] = squared[i, j] - smallest if j != i else 0.0
                z_lanes[lane] += distance[j]
        # Distances in units of their mean, so that beta = 1 is a fair start.
        mean = _butterfly(z_lanes) / (n - 1)
        unit = 1.0 / mean if mean > 0.0 else 0.0
        for j in range(n):
            distance[j] *= unit
        beta, low, high = 1.0, 0.0, np.inf
        z = 1.0
        for _ in range(_MAX_SEARCH):
            z_lanes[:] = 0.0
            d_lanes[:] = 0.0
            v_lanes[:] = 0.0
            for base in range(0, n, LANES):
                for lane in range(min(LANES, n - base)):
                    j = np.uintp(base + lane)
                    d = distance[j]
                    w = exp(-beta * d)
                    weight[j] = w
                    z_lanes[lane] += w
                    d_lanes[lane] += w * d
                    v_lanes[lane] += w * d * d
            # The point itself took part with distance 0 and weight 1.
            z = _butterfly(z_lanes) - 1.0
            expectation = _butterfly(d_lanes) / z
            variance = _butterfly(v_lanes) / z - expectation * expectation
            excess = log(z) + beta * expectation - target
            if abs(excess) < _ENTROPY_TOLERANCE:
                break
            if excess > 0.0:
                low = beta
            else:
                high = beta
            slope = beta * beta * variance
            step = excess / slope if slope > 1e-12 else (2.0 if excess > 0.0 else -2.0)
            beta *= exp(min(max(step, -2.0), 2.0))
            if not low < beta < high:
                beta = 2.0 * low if high == np.inf else 0.5 * (low + high)
        inverse = 1.0 / z
        for j in range(n):
            p = weight[j] * inverse
            out[i, j] = p if j != i and p >= _MIN_PROBABILITY else 0.0


def affinities(squared: Tensor, perplexity: float) -> Tensor:
    n = squared.shape[0]
    conditional = torch.empty((n, n), dtype=torch.float32)
    in_threads(
        lambda first, last: _conditional_rows(
            squared.numpy(),
            perplexity,
            first,
            last,
            conditional.numpy(),
            np.empty((2, n)),
            np.empty((3, LANES)),
        ),
        n_items=n,
        work=8 * n * n,
    )
    return (conditional + conditional.T) * (1.0 / (2 * n))


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
            out[part, i] = _butterfly(lanes[part])


def _kl_divergence(p: Floats, y: Floats) -> float:
    """Return sum p ln(p / (q / Z)) = sum p ln(p (1 + d^2)) + ln Z sum p, in float64."""
    rows = np.empty((3, p.shape[0]))
    in_threads(
        lambda first, last: _divergence_rows(p, y, first, last, rows, np.empty((3, LANES))),
        n_items=p.shape[0],
        work=4 * p.size,
    )
    lanes = np.empty(LANES)
    p_sum, z, kl = (_sum(part, lanes) for part in rows)
    return float(kl + p_sum * log(z))


@device
def _gradient_rows(p, y, first, last, sums):
    """Fill ``sums [5, N]`` for rows first..last-1: of q, then of attraction and repulsion by axis.

    ``p`` and ``y`` are padded, see `_pad`.
    """
    one, zero = splat(np.float32(1.0)), splat(np.float32(0.0))
    x_row, y_row = y[0], y[1]
    for i in range(first, last):
        row = p[i]
        xi, yi = splat(x_row[i]), splat(y_row[i])
        z, attraction_x, attraction_y, repulsion_x, repulsion_y = zero, zero, zero, zero, zero
        for base in range(0, p.shape[1], LANES):
            j = np.uintp(base)
            dx, dy = xi - load(x_row, j), yi - load(y_row, j)
            q = one / (one + dx * dx + dy * dy)
            pq = load(row, j) * q
            qq = q * q
            z += q
            attraction_x += pq * dx
            attraction_y += pq * dy
            repulsion_x += qq * dx
            repulsion_y += qq * dy
        sums[0, i] = butterfly(z) - np.float32(1.0)  # without the point itself
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
    return np.sqrt(_butterfly(lanes))


@device
def _descend(y, sums, state, exaggeration, inverse, momentum, rate):
    """Move the points by one step; ``state [4, N]`` is the last one, then the gains, by axis."""
    for axis in range(2):
        for i in range(sums.shape[1]):
            j = np.uintp(i)
            gradient = _gradient_of(sums, axis, j, exaggeration, inverse)
            update, gain = state[axis, j], state[2 + axis, j]
            if update * gradient < np.float32(0.0):
                gain += np.float32(0.2)
            else:
                gain = max(gain * np.float32(0.8), np.float32(0.01))
            update = momentum * update - rate * gain * gradient
            state[axis, j] = update
            state[2 + axis, j] = gain
            y[axis, j] += update


def _optimise(p, y, n_iter, early_exaggeration, learning_rates, sums, state, lanes, n_done):
    """Gradient descent with momentum and gains from ``y [runs, 2, N]``, in place, to ``n_done``.

    dKL/dy_i = 4 (sum_j p_ij q_ij (y_i - y_j) - 1/Z sum_j q_ij^2 (y_i - y_j)), with the
    unnormalised q_ij = 1 / (1 + |y_i - y_j|^2) and Z their sum (van der Maaten and Hinton, eq. 5).
    The gains are Jacobs' delta-bar-delta as in the authors' code. The runs differ in their
    learning rates and go step by step together, so that there is work for all threads. ``p`` and
    ``y`` are padded, see `_pad`; ``sums [runs, 5, N]``, ``state [runs, 4, N]`` and
    ``lanes [LANES]`` are room to work in.
    """
    n, n_runs = p.shape[0], y.shape[0]
    n_blocks = (n + _ROWS - 1) // _ROWS
    n_done[:] = n_iter
    for iteration in range(n_iter):
        exploring = iteration < _EXPLORATION
        if iteration == 0 or iteration == _EXPLORATION:
            # What was learnt of the exaggerated map does not help afterwards.
            state[:, :2] = np.float32(0.0)
            state[:, 2:] = np.float32(1.0)
        exaggeration = np.float32(early_exaggeration if exploring else 1.0)
        momentum = np.float32(0.5 if exploring else 0.8)
        check = not exploring and (iteration + 1) % _CHECK_EVERY == 0
        for item in numba.prange(n_runs * n_blocks):
            run, first = item // n_blocks, item % n_blocks * _ROWS
            if n_done[run] > iteration:
                _gradient_rows(p, y[run], first, min(n, first + _ROWS), sums[run])
        for run in range(n_runs):
            if n_done[run] > iteration:
                inverse = np.float32(1.0 / _sum(sums[run, 0], lanes))
                rate = learning_rates[run]
                _descend(y[run], sums[run], state[run], exaggeration, inverse, momentum, rate)
                if check:
                    norm = _gradient_norm(sums[run], exaggeration, inverse, lanes)
                    if norm <= _MIN_GRADIENT_NORM:
                        n_done[run] = iteration + 1


_optimise_serial = kernel(_optimise)
_optimise_parallel = parallel_kernel(_optimise)


def _pad(array: Floats, value: float) -> Floats:
    """Return ``array`` with ``value`` at the end of its rows, to a multiple of 32 columns.

    Affinities with 0 and coordinates with `_FAR` change no sum: q is 1 / infinity, exactly 0.
    """
    missing = -array.shape[-1] % LANES
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
    n_done = np.empty(n_runs, np.int64)
    parallel = n_threads() > 1 and n_runs * n * n >= _MIN_PARALLEL
    (_optimise_parallel if parallel else _optimise_serial)(
        _pad(p, 0.0),
        y,
        n_iter,
        early_exaggeration,
        np.array(learning_rates, np.float32),
        np.empty((n_runs, 5, n), np.float32),
        np.empty((n_runs, 4, n), np.float32),
        np.empty(LANES),
        n_done,
    )
    maps = np.ascontiguousarray(y[:, :, :n])
    return [
        (torch.from_numpy(map_.T.copy()), _kl_divergence(p, map_), int(done))
        for map_, done in zip(maps, n_done, strict=True)
    ]


@device
def _dot(a, b, lanes):
    lanes[:] = 0.0
    for base in range(0, a.shape[0], LANES):
        for lane in range(min(LANES, a.shape[0] - base)):
            j = np.uintp(base + lane)
            lanes[lane] += a[j] * b[j]
    return _butterfly(lanes)


@device
def _centred_product(squared, row_mean, mean, v, out, lanes):
    """Compute B v, where B = -J D J / 2 is the Gram matrix of the centred points."""
    n = squared.shape[0]
    for i in range(n):
        lanes[:] = 0.0
        shift = row_mean[i] - mean
        for base in range(0, n, LANES):
            for lane in range(min(LANES, n - base)):
                j = np.uintp(base + lane)
                lanes[lane] += (row_mean[j] + shift - squared[i, j]) * v[j]
        out[i] = 0.5 * _butterfly(lanes)


@kernel
def _lanczos(squared, basis, tridiagonal, room, lanes):
    """Run Lanczos on B and return the number of steps m.

    Fills the first rows of ``basis [m, N]`` and the corner of ``tridiagonal [m, m]``, which holds
    zeros; ``room [2, N]`` is to work in.
    """
    n, n_steps = squared.shape[0], basis.shape[0]
    row_mean = room[0]
    for i in range(n):
        row_mean[i] = _sum(squared[i], lanes) / n
    mean = _sum(row_mean, lanes) / n
    # A fixed start without a pattern (Knuth's multiplicative hash), made orthogonal to 1.
    for i in range(n):
        basis[0, i] = np.float64((i + 1) * 2654435761 % 4294967296) / 2147483648.0 - 1.0
    shift = _sum(basis[0], lanes) / n
    for i in range(n):
        basis[0, i] -= shift
    length = np.sqrt(_dot(basis[0], basis[0], lanes))
    for i in range(n):
        basis[0, i] /= length
    largest = 0.0
    for step in range(n_steps):
        w = basis[step + 1] if step + 1 < n_steps else room[1]
        _centred_product(squared, row_mean, mean, basis[step], w, lanes)
        tridiagonal[step, step] = _dot(w, basis[step], lanes)
        largest = max(largest, abs(tridiagonal[step, step]))
        if step + 1 == n_steps:
            break
        for _again in range(2):  # once is not enough in floating point
            for other in range(step + 1):
                along = _dot(w, basis[other], lanes)
                for i in range(n):
                    w[i] -= along * basis[other, i]
        beta = np.sqrt(_dot(w, w, lanes))
        if beta <= 1e-12 * largest:
            return step + 1
        tridiagonal[step, step + 1] = beta
        tridiagonal[step + 1, step] = beta
        for i in range(n):
            w[i] /= beta
    return n_steps


@kernel
def _jacobi(a, vectors):
    """Make the symmetric ``a`` diagonal, its eigenvalues, by rotations that turn ``vectors``."""
    n = a.shape[0]
    for _ in range(30):
        off = 0.0
        for i in range(n):
            for j in range(i):
                off += a[i, j] * a[i, j]
        if off == 0.0:
            break
        for i in range(n - 1):
            for j in range(i + 1, n):
                if a[i, j] != 0.0:
                    theta = (a[j, j] - a[i, i]) / (2.0 * a[i, j])
                    t = 1.0 / (abs(theta) + np.sqrt(theta * theta + 1.0))
                    t = t if theta >= 0.0 else -t
                    c = 1.0 / np.sqrt(t * t + 1.0)
                    s = t * c
                    for k in range(n):
                        aki, akj = a[k, i], a[k, j]
                        a[k, i] = c * aki - s * akj
                        a[k, j] = s * aki + c * akj
                    for k in range(n):
                        aik, ajk = a[i, k], a[j, k]
                        a[i, k] = c * aik - s * ajk
                        a[j, k] = s * aik + c * ajk
                        vki, vkj = vectors[k, i], vectors[k, j]
                        vectors[k, i] = c * vki - s * vkj
                        vectors[k, j] = s * vki + c * vkj


def principal_axes(squared: Tensor) -> Tensor:
    n = squared.shape[0]
    most = min(_LANCZOS_STEPS, n - 1)
    basis, tridiagonal = np.empty((most, n)), np.zeros((most, most))
    m = _lanczos(squared.numpy(), basis, tridiagonal, np.empty((2, n)), np.empty(LANES))
    diagonal, vectors = tridiagonal[:m, :m].copy(), np.eye(m)
    _jacobi(diagonal, vectors)
    values = diagonal.diagonal()
    order = np.argsort(-values, kind="stable")[:2]
    axes = np.zeros((n, 2))
    largest = max(values[order[0]], 0.0)
    for axis, which in enumerate(order):
        if values[which] > 1e-12 * largest:
            coordinates = np.zeros(n)
            for weight, vector in zip(vectors[:, which], basis[:m], strict=True):
                coordinates += weight * vector
            coordinates *= np.sqrt(n * values[which] / largest)
            sign = np.sign(coordinates[np.argmax(np.abs(coordinates))])
            axes[:, axis] = sign * coordinates
    return torch.from_numpy(axes)
