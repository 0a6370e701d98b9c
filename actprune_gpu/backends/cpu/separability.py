"""Jeffries-Matusita separability on its exact grid."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..protocol import SEPARABILITY_STEP, ClassStatistics, SeparabilityDistances
from ..rows import count_pairs, distances_by_tile
from .compile import kernel
from .math import exp
from .threads import in_threads

_STEPS = 2.0 / SEPARABILITY_STEP  # grid steps of the largest distance, 2
_TILE_BYTES = 1 << 25  # of float64 separability held at a time


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


def _tile(statistics: ClassStatistics, start: int, scale: float, out: Tensor) -> Tensor:
    n_samples, mean, std = (array.numpy() for array in statistics)
    in_threads(
        lambda first, last: _jeffries_matusita_rows(
            n_samples, mean, std, first, last, start, scale, out.numpy()
        ),
        n_items=out.shape[0],
        work=out.numel(),
    )
    return out


def jeffries_matusita(statistics: ClassStatistics) -> Tensor:
    shape = (statistics.mean.shape[0], count_pairs(statistics))
    return _tile(statistics, 0, SEPARABILITY_STEP, torch.empty(shape, dtype=torch.float32))


def separability_distances(statistics: ClassStatistics) -> SeparabilityDistances:
    def tile(start: int, width: int) -> Tensor:
        shape = (statistics.mean.shape[0], width)
        return _tile(statistics, start, 1.0, torch.empty(shape, dtype=torch.float64))

    return distances_by_tile(statistics, tile, _TILE_BYTES)
