"""The two principal axes of points of which the distances are known, by Lanczos' method."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .compile import device, kernel
from .lanes import LANES, add_up, sum_of_lanes

_LANCZOS_STEPS = 32
_NEGLIGIBLE = 2.0**-56  # of the largest number on the diagonal


@device
def _dot(a, b, lanes):
    lanes[:] = 0.0
    for base in range(0, a.shape[0], LANES):
        for lane in range(min(LANES, a.shape[0] - base)):
            j = np.uintp(base + lane)
            lanes[lane] += a[j] * b[j]
    return sum_of_lanes(lanes)


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
        out[i] = 0.5 * sum_of_lanes(lanes)


@kernel
def _lanczos(squared, basis, tridiagonal, room, lanes):
    """Run Lanczos on B and return the number of steps m.

    Fills the first rows of ``basis [m, N]`` and the corner of ``tridiagonal [m, m]``, which holds
    zeros; ``room [2, N]`` is to work in.
    """
    n, n_steps = squared.shape[0], basis.shape[0]
    row_mean = room[0]
    for i in range(n):
        row_mean[i] = add_up(squared[i], lanes) / n
    mean = add_up(row_mean, lanes) / n
    # A fixed start without a pattern (Knuth's multiplicative hash), made orthogonal to 1.
    for i in range(n):
        basis[0, i] = np.float64((i + 1) * 2654435761 % 4294967296) / 2147483648.0 - 1.0
    shift = add_up(basis[0], lanes) / n
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
    n, largest = a.shape[0], 0.0
    for i in range(n):
        largest = max(largest, abs(a[i, i]))
    for _ in range(30):
        done = True
        for i in range(n - 1):
            for j in range(i + 1, n):
                if abs(a[i, j]) > _NEGLIGIBLE * largest:
                    done = False
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
        if done:
            break


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
