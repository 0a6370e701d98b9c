"""How much points are neighbours in the space that they come from: the p of t-SNE."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .compile import kernel
from .lanes import LANES, sum_of_lanes
from .math import exp, log
from .threads import in_threads

_MAX_SEARCH = 64  # steps of the perplexity search
_ENTROPY_TOLERANCE = 1e-7
# Smaller conditional probabilities are 0: fp32 arithmetic on subnormal numbers is slow.
_MIN_PROBABILITY = 1e-30
_TILE = 16  # values in a cache line


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
        mean = sum_of_lanes(z_lanes) / (n - 1)
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
            z = sum_of_lanes(z_lanes) - 1.0
            expectation = sum_of_lanes(d_lanes) / z
            variance = sum_of_lanes(v_lanes) / z - expectation * expectation
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


@kernel
def _symmetric_rows(conditional, first, last, out):
    """Fill rows first..last-1 of ``out [N, N]`` with (p(j | i) + p(i | j)) / 2N."""
    n = conditional.shape[0]
    inverse = np.float32(1.0 / (2 * n))
    for first_row in range(first, last, _TILE):
        for first_column in range(0, n, _TILE):
            for i in range(first_row, min(first_row + _TILE, last)):
                for j in range(first_column, min(first_column + _TILE, n)):
                    out[i, j] = (conditional[i, j] + conditional[j, i]) * inverse


def affinities(squared: Tensor, perplexity: float) -> Tensor:
    n = squared.shape[0]
    conditional, joint = np.empty((n, n), np.float32), np.empty((n, n), np.float32)
    in_threads(
        lambda first, last: _conditional_rows(
            squared.numpy(),
            perplexity,
            first,
            last,
            conditional,
            np.empty((2, n)),
            np.empty((3, LANES)),
        ),
        n_items=n,
        work=8 * n * n,
    )
    # Not by PyTorch: its threads would spin for 12 ms beside those of the next step.
    in_threads(
        lambda first, last: _symmetric_rows(conditional, first, last, joint),
        n_items=n,
        work=n * n,
    )
    return torch.from_numpy(joint)
