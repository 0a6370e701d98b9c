"""Jeffries-Matusita separability on its exact grid."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..protocol import MIN_SAMPLES, SEPARABILITY_STEP, ClassStatistics, SeparabilityDistances
from ..rows import count_pairs, distances_by_tile
from ..rows import pairwise_distances as distances_between
from .launch import Launcher
from .memory import fits, require

_BLOCK = 256
_MAX_ROWS = 64  # of blocks; each does the channels that are so many apart
_TILE_BYTES = 1 << 28  # of float64 separability held at a time
_LEAST_TILE_BYTES = 1 << 22


def _tile(
    launcher: Launcher,
    kernel: str,
    statistics: ClassStatistics,
    start: int,
    scale: float,
    out: Tensor,
) -> Tensor:
    n_channels, n_classes = statistics.mean.shape
    width = out.shape[1]
    launcher.launch(
        kernel,
        (-(-width // _BLOCK), min(n_channels, _MAX_ROWS)),
        _BLOCK,
        *statistics,
        out,
        np.int32(n_channels),
        np.int32(n_classes),
        np.int64(start),
        np.int64(width),
        np.float64(scale),
    )
    return out


def class_statistics(
    count: Tensor, mean: Tensor, m2: Tensor, std_floor: float
) -> tuple[ClassStatistics, Tensor]:
    used = (count >= MIN_SAMPLES).any(1)
    rows = used.nonzero().flatten()
    n, m, squares = (part[rows].T for part in (count, mean, m2))
    std = (squares / n.clamp(min=1)).sqrt().clamp(min=std_floor)
    return ClassStatistics(*(part.contiguous() for part in (n, m, std))), used


def jeffries_matusita(launcher: Launcher, statistics: ClassStatistics) -> Tensor:
    shape = (statistics.mean.shape[0], count_pairs(statistics))
    require(launcher, 4 * shape[0] * shape[1], f"a separability matrix {list(shape)}")
    out = statistics.mean.new_empty(shape, dtype=torch.float32)
    return _tile(launcher, "jeffries_matusita", statistics, 0, SEPARABILITY_STEP, out)


def pairwise_distances(launcher: Launcher, rows: Tensor) -> Tensor:
    n = rows.shape[0]
    require(launcher, 2 * 8 * n**2, f"the distances between {n} rows")
    return distances_between(rows)


def separability_distances(
    launcher: Launcher, statistics: ClassStatistics
) -> SeparabilityDistances:
    def tile(start: int, width: int) -> Tensor:
        out = statistics.mean.new_empty((statistics.mean.shape[0], width))
        return _tile(launcher, "jeffries_matusita_steps", statistics, start, 1.0, out)

    n_channels = statistics.mean.shape[0]
    # The products, their copy while distances are made of them, and a tile as large as fits.
    products = 2 * 8 * n_channels**2
    tile_bytes = _TILE_BYTES
    while tile_bytes > _LEAST_TILE_BYTES and not fits(launcher, products + 2 * tile_bytes):
        tile_bytes //= 2
    require(launcher, products + 2 * tile_bytes, f"the separability of {n_channels} channels")
    return distances_by_tile(statistics, tile, tile_bytes)
