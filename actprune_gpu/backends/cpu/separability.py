"""Jeffries-Matusita separability on its exact grid, and exact distances between its rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..protocol import SEPARABILITY_STEP, ClassStatistics, SeparabilityDistances
from .compile import kernel
from .math import exp
from .threads import in_threads

_STEPS = 2.0 / SEPARABILITY_STEP  # grid steps of the largest distance, 2
_TILE_BYTES = 1 << 25  # of float64 separability held at a time
_BLOCK = 256  # rows of one matrix product: only blocks on and above the diagonal are computed


@kernel
def _jeffries_matusita_rows(n_samples, mean, std, first, last, start, scale, out):
    """Fill ``out[first:last]``, pairs ``start``.. of channels first..last-1, with scale * steps.

    JM = 2 (1 - exp(-B)), where exp(-B) needs no logarithm:
    exp(-B) = sqrt(2 s1 s2 / (v1 + v2)) exp(-(m1 - m2)^2 / (4 (v1 + v2))).
    """
    n_classes = mean.shape[1]
    stop = start + out.shape[1]
    for channel in range(first, last):
        m, s, n = mean[channel], std[channel], n_samples[channel]
        row = out[channel]
        begin = 0  # number of the pair (i, i + 1)
        for i in range(n_classes - 1):
            low = max(start, begin)
            high = min(stop, begin + n_classes - 1 - i)
            if low < high:
                if n[i] < 2:
                    for pair in range(low, high):
                        row[pair - start] = 0
                else:
                    offset = i + 1 - begin
                    mi, si, vi = m[i], s[i], s[i] * s[i]
                    for pair in range(low, high):
                        j = np.uintp(pair + offset)
                        sj = s[j]
                        inverse = 1.0 / (vi + sj * sj)
                        delta = mi - m[j]
                        overlap = np.sqrt(2.0 * si * sj * inverse) * exp(
                            delta * delta * inverse * -0.25
                        )
                        steps = np.floor(_STEPS * (1.0 - overlap) + 0.5)
                        row[np.uintp(pair - start)] = scale * (steps if n[j] >= 2 else 0.0)
            begin += n_classes - 1 - i


def _tile(statistics: ClassStatistics, start: int, scale: float, out: Tensor) -> None:
    n_samples, mean, std = (array.numpy() for array in statistics)
    in_threads(
        lambda first, last: _jeffries_matusita_rows(
            n_samples, mean, std, first, last, start, scale, out.numpy()
        ),
        n_items=out.shape[0],
        work=out.numel(),
    )


def _n_pairs(statistics: ClassStatistics) -> int:
    n_classes = statistics.mean.shape[1]
    return n_classes * (n_classes - 1) // 2


def jeffries_matusita(statistics: ClassStatistics) -> Tensor:
    out = torch.empty((statistics.mean.shape[0], _n_pairs(statistics)), dtype=torch.float32)
    _tile(statistics, 0, SEPARABILITY_STEP, out)
    return out


def separability_distances(statistics: ClassStatistics) -> SeparabilityDistances:
    n_channels, n_pairs = statistics.mean.shape[0], _n_pairs(statistics)
    gram = torch.zeros((n_channels, n_channels), dtype=torch.float64)
    row_sum = torch.zeros(n_channels, dtype=torch.float64)
    row_max = torch.zeros(n_channels, dtype=torch.float64)
    width = max(1, min(n_pairs, _TILE_BYTES // (8 * n_channels)))
    for start in range(0, n_pairs, width):
        part = torch.empty((n_channels, min(width, n_pairs - start)), dtype=torch.float64)
        _tile(statistics, start, 1.0, part)
        _add_gram(gram, part)
        row_sum += part.sum(1)
        row_max = torch.maximum(row_max, part.amax(1))
    return SeparabilityDistances(
        _squared_distances(gram),
        row_sum / n_pairs * SEPARABILITY_STEP,
        row_max * SEPARABILITY_STEP,
    )


def pairwise_distances(rows: Tensor) -> Tensor:
    gram = torch.zeros((rows.shape[0], rows.shape[0]), dtype=torch.float64)
    _add_gram(gram, rows)
    return _squared_distances(gram)


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
