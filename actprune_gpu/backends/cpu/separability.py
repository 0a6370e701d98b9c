"""Jeffries-Matusita separability on its exact grid, and distances between channels by it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..protocol import MIN_SAMPLES, SEPARABILITY_STEP, ClassStatistics, SeparabilityDistances
from ..rows import count_pairs
from .barrier import wait_for_all
from .compile import device, kernel
from .lanes import floor, load, square_root, store
from .math import exp
from .products import PANEL, TILE, add_products, norms_of, squared_rows, start_of
from .threads import in_step, in_threads, n_threads

Floats = NDArray[np.float64]
_STEPS = 2.0 / SEPARABILITY_STEP  # grid steps of the largest distance, 2
_MIN_SEPARABILITIES = 1 << 18  # for which a thread is worth waiting for
_MAX_PRODUCTS = 1 << 36  # between which the user can interrupt: a second or so on two cores


@device
def _fill_panel(counts, mean, std, start, n_pairs, panel, row_sum, row_max):
    """Fill ``panel`` with steps of 8 channels for pairs ``start`` and on, adding to their sums.

    JM = 2 (1 - exp(-B)), where exp(-B) needs no logarithm:
    exp(-B) = sqrt(2 s1 s2 / (v1 + v2)) exp(-(m1 - m2)^2 / (4 (v1 + v2))).

    Args: flat ``counts``, ``mean``, ``std`` ``[L, 8]`` float64, counts being 1 or 0, for too few
    samples; ``panel [n_pairs, 8]`` float64, flat; ``row_sum``, ``row_max`` ``[8]`` float64.
    """
    n_classes = mean.shape[0] // PANEL
    nowhere = np.uintp(0)
    total, largest = load(row_sum, nowhere), load(row_max, nowhere)
    stop = start + n_pairs
    begin = 0  # number of the pair (i, i + 1)
    for i in range(n_classes - 1):
        at = np.uintp(i * PANEL)
        mi, si, counted = load(mean, at), load(std, at), load(counts, at)
        vi, two_si = si * si, si * 2.0
        for pair in range(max(start, begin), min(stop, begin + n_classes - 1 - i)):
            j = np.uintp((pair - begin + i + 1) * PANEL)
            sj = load(std, j)
            inverse = 1.0 / (vi + sj * sj)
            delta = mi - load(mean, j)
            overlap = square_root(two_si * sj * inverse) * exp(delta * delta * inverse * -0.25)
            steps = floor((1.0 - overlap) * _STEPS + 0.5) * (counted * load(counts, j))
            store(panel, np.uintp((pair - start) * PANEL), steps)
            total += steps
            largest = max(steps, largest)
        begin += n_classes - 1 - i
    store(row_sum, nowhere, total)
    store(row_max, nowhere, largest)


@kernel
def _jeffries_matusita_rows(counts, mean, std, first, last, panel, sums, out):
    """Fill ``out [C, P]`` float32 with the separability of panels first..last-1."""
    n_channels, n_pairs = out.shape
    for number in range(first, last):
        for start in range(0, n_pairs, TILE):
            width = min(TILE, n_pairs - start)
            _fill_panel(
                counts[number], mean[number], std[number], start, width, panel, sums[0], sums[1]
            )
            for lane in range(min(PANEL, n_channels - number * PANEL)):
                row = out[number * PANEL + lane]
                for pair in range(width):
                    steps = panel[np.uintp(pair * PANEL + lane)]
                    row[np.uintp(start + pair)] = np.float32(steps * SEPARABILITY_STEP)


@kernel
def _add_tiles(
    counts, mean, std, first, last, panels, row_sum, row_max, sums, n_parts, arrivals, part
):
    """Add to ``sums`` the products of all channels' steps for pairs first..last-1.

    Each part does its share of the panels, and then of their products.
    """
    n_panels = mean.shape[0]
    half = (n_panels + 1) // 2
    passed = 0
    for start in range(first, last, TILE):
        width = min(TILE, last - start)
        for number in range(n_panels * part // n_parts, n_panels * (part + 1) // n_parts):
            _fill_panel(
                counts[number],
                mean[number],
                std[number],
                start,
                width,
                panels[number * TILE * PANEL :],
                row_sum[number],
                row_max[number],
            )
        passed += n_parts
        wait_for_all(arrivals, passed)
        shares = half * part // n_parts, half * (part + 1) // n_parts
        add_products(panels, n_panels, width, shares[0], shares[1], sums)
        passed += n_parts
        wait_for_all(arrivals, passed)


def class_statistics(
    count: Tensor, mean: Tensor, m2: Tensor, std_floor: float
) -> tuple[ClassStatistics, Tensor]:
    """In NumPy: after an operation of PyTorch on so many numbers its threads spin beside ours."""
    used = (count.numpy() >= MIN_SAMPLES).any(1)
    n, m, squares = (part.numpy()[used].T for part in (count, mean, m2))
    std = np.maximum(np.sqrt(squares / np.maximum(n, 1)), std_floor)
    arrays = (torch.from_numpy(np.ascontiguousarray(array)) for array in (n, m, std))
    return ClassStatistics(*arrays), torch.from_numpy(used)


def _panels(statistics: ClassStatistics) -> tuple[Floats, ...]:
    """Return the arrays for `_fill_panel` of every panel, ``[C / 8, L * 8]``.

    The channels beyond the last one have no samples.
    """
    counts = (statistics.n_samples.numpy() >= MIN_SAMPLES).astype(np.float64)
    arrays = (counts, 0.0), (statistics.mean.numpy(), 0.0), (statistics.std.numpy(), 1.0)
    return tuple(_panels_of(array, missing) for array, missing in arrays)


def _panels_of(array: Floats, missing: float) -> Floats:
    n_channels, n_classes = array.shape
    n_panels = -(-n_channels // PANEL)
    widths = ((0, n_panels * PANEL - n_channels), (0, 0))
    padded: Any = np.pad(array, widths, constant_values=missing)
    return np.ascontiguousarray(
        padded.reshape(n_panels, PANEL, n_classes).transpose(0, 2, 1)
    ).reshape(n_panels, -1)


def jeffries_matusita(statistics: ClassStatistics) -> Tensor:
    out = np.empty((statistics.mean.shape[0], count_pairs(statistics)), np.float32)
    panels = _panels(statistics)

    def rows(first: int, last: int) -> None:
        room = np.empty(TILE * PANEL), np.zeros((2, PANEL))
        _jeffries_matusita_rows(*panels, first, last, *room, out)

    in_threads(rows, n_items=len(panels[0]), work=out.size)
    return torch.from_numpy(out)


def separability_distances(statistics: ClassStatistics) -> SeparabilityDistances:
    n_channels, n_pairs = statistics.mean.shape[0], count_pairs(statistics)
    panels = _panels(statistics)
    n_panels = len(panels[0])
    n = n_panels * PANEL
    row_sum, row_max = np.zeros((2, n_panels, PANEL))
    room = np.empty(n * TILE), row_sum, row_max, np.zeros(start_of(n_panels))
    n_parts = max(1, min(n_threads(), n * n_pairs // _MIN_SEPARABILITIES))
    span = max(_MAX_PRODUCTS // (n * n * TILE), 1) * TILE
    for first in range(0, n_pairs, span):
        add = partial(_add_tiles, *panels, first, min(first + span, n_pairs), *room, n_parts)
        in_step(add, n_parts)
    sums, squared = room[-1], np.empty((n_channels, n_channels))
    norms = norms_of(sums, n_panels)
    in_threads(
        lambda first, last: squared_rows(sums, norms, first, last, squared),
        n_items=n_panels,
        work=squared.size,
    )
    row_mean = row_sum.ravel()[:n_channels] / n_pairs
    return SeparabilityDistances(
        torch.from_numpy(squared),
        torch.from_numpy(row_mean * SEPARABILITY_STEP),
        torch.from_numpy(row_max.ravel()[:n_channels] * SEPARABILITY_STEP),
    )
