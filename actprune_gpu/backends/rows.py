"""Exact distances between rows of small integers, on any device.

Products of such rows are integers below 2**53, so a vendor's float64 matrix product gives the same
bits everywhere, whatever its order of summation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .protocol import SEPARABILITY_STEP, ClassStatistics, SeparabilityDistances

_BLOCK = 128  # rows of one matrix product: only blocks on and above the diagonal are computed


def count_pairs(statistics: ClassStatistics) -> int:
    """Return the number of pairs of classes."""
    n_classes = statistics.mean.shape[1]
    return n_classes * (n_classes - 1) // 2


def pairwise_distances(rows: Tensor) -> Tensor:
    """Return squared distances ``[N, N]`` float64 between integer rows ``[N, F]`` float64."""
    gram = rows.new_zeros((rows.shape[0], rows.shape[0]))
    _add_gram(gram, rows)
    return _squared_distances(gram)


def distances_by_tile(
    statistics: ClassStatistics, tile: Callable[[int, int], Tensor], tile_bytes: int
) -> SeparabilityDistances:
    """Return the distances between rows ``[C, P]`` of which only a tile is there at a time.

    Args:
        statistics: What the rows are made of.
        tile: Called with (first column, number of columns), returns those columns of the rows,
            float64, in units of SEPARABILITY_STEP.
        tile_bytes: Largest size of a tile.
    """
    n_channels, n_pairs = statistics.mean.shape[0], count_pairs(statistics)
    gram = statistics.mean.new_zeros((n_channels, n_channels))
    row_sum, row_max = statistics.mean.new_zeros((2, n_channels))
    width = max(1, min(n_pairs, tile_bytes // (8 * n_channels)))
    for start in range(0, n_pairs, width):
        part = tile(start, min(width, n_pairs - start))
        _add_gram(gram, part)
        row_sum += part.sum(1)
        row_max = torch.maximum(row_max, part.amax(1))
    # A tensor as divisor: by a number, CUDA multiplies with its rounded inverse.
    row_mean = row_sum / torch.full_like(row_sum, n_pairs)
    return SeparabilityDistances(
        _squared_distances(gram), row_mean * SEPARABILITY_STEP, row_max * SEPARABILITY_STEP
    )


def _add_gram(gram: Tensor, rows: Tensor) -> None:
    """Add ``rows @ rows.T`` to the upper block triangle of ``gram``, exact for integer rows."""
    for start in range(0, rows.shape[0], _BLOCK):
        stop = start + _BLOCK
        gram[:stop, start:stop].addmm_(rows[:stop], rows[start:stop].T)


def _squared_distances(gram: Tensor) -> Tensor:
    """Return |a|^2 + |b|^2 - 2 ab from products of which the upper block triangle is there."""
    for start in range(0, gram.shape[0], _BLOCK):
        stop = start + _BLOCK
        gram[stop:, start:stop] = gram[start:stop, stop:].T
    norms = gram.diagonal().clone()
    return gram.mul_(-2.0).add_(norms[:, None]).add_(norms)
