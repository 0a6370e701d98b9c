"""Products of all rows of small integers with one another.

They are exact in float64, whatever their order. Rows come in panels of a vector of channels each,
in which a sum over pairs of classes reads one number after the other; only the triangle of panels
on and above the diagonal is computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compile import device, inlined, kernel
from .lanes import WIDE_VECTOR, fma, load, splat, store

PANEL = WIDE_VECTOR  # channels
TILE = 128  # pairs, of which 512 channels fit in the second-level cache
_ROWS = 6  # whose sums and operands are what AVX2 has registers for


@inlined
def _first_of(row, n_rows):
    """Return where the numbers of a row, one in every 8, begin in flat panels."""
    row = min(row, n_rows - 1)
    return np.uintp(row // PANEL * (TILE * PANEL) + row % PANEL)


@inlined
def _add_to(sums, at, terms):
    store(sums, at, load(sums, at) + terms)


def start_of(panel: Any) -> Any:
    """Return where the sums of a panel with all rows up to its own begin: ``[8 panel + 13, 8]``.

    The rows of a panel lie together: in a square, each would be on a page of memory of its own.
    """
    return panel * (PANEL * (panel + 1) // 2 + _ROWS - 1) * PANEL


_start_of = inlined(start_of)


@device
def add_products(panels, n_panels, n_pairs, first, last, sums):
    """Add to ``sums`` the products of panels first..last-1, and as many from the end, with others.

    Those are the panels up to each: so every share of panels is as much work. Both arrays are flat:
    ``panels [N / 8, TILE, 8]``, of which ``n_pairs`` are there, and ``sums``, see `start_of`.
    """
    n_rows = n_panels * PANEL
    for turn in range(2 * first, 2 * last):
        panel = turn // 2 if turn % 2 else n_panels - 1 - turn // 2
        if turn % 2 and panel == n_panels - 1 - panel:
            continue  # the one in the middle is done
        column = np.uintp(panel * TILE * PANEL)
        for row in range(0, (panel + 1) * PANEL, _ROWS):
            row_0, row_1 = _first_of(row, n_rows), _first_of(row + 1, n_rows)
            row_2, row_3 = _first_of(row + 2, n_rows), _first_of(row + 3, n_rows)
            row_4, row_5 = _first_of(row + 4, n_rows), _first_of(row + 5, n_rows)
            zeros = splat(0.0)
            sum_0, sum_1, sum_2, sum_3, sum_4, sum_5 = zeros, zeros, zeros, zeros, zeros, zeros
            for pair in range(n_pairs):
                at = np.uintp(pair * PANEL)
                numbers = load(panels, column + at)
                sum_0 = fma(splat(panels[row_0 + at]), numbers, sum_0)
                sum_1 = fma(splat(panels[row_1 + at]), numbers, sum_1)
                sum_2 = fma(splat(panels[row_2 + at]), numbers, sum_2)
                sum_3 = fma(splat(panels[row_3 + at]), numbers, sum_3)
                sum_4 = fma(splat(panels[row_4 + at]), numbers, sum_4)
                sum_5 = fma(splat(panels[row_5 + at]), numbers, sum_5)
            at = np.uintp(_start_of(panel) + row * PANEL)
            _add_to(sums, at, sum_0)
            _add_to(sums, at + np.uintp(PANEL), sum_1)
            _add_to(sums, at + np.uintp(2 * PANEL), sum_2)
            _add_to(sums, at + np.uintp(3 * PANEL), sum_3)
            _add_to(sums, at + np.uintp(4 * PANEL), sum_4)
            _add_to(sums, at + np.uintp(5 * PANEL), sum_5)


@kernel
def squared_rows(sums, norms, first, last, out):
    """Fill ``out [N, N]`` with |a|^2 + |b|^2 - 2 ab for panels first..last-1 and rows up to them.

    ``norms [N]`` are those products of rows with themselves.
    """
    n = out.shape[0]
    for panel in range(first, last):
        start, column = _start_of(panel), panel * PANEL
        for row in range(min(column + PANEL, n)):
            for lane in range(min(PANEL, n - column)):
                product = sums[np.uintp(start + row * PANEL + lane)]
                squared = norms[row] + norms[column + lane] - 2.0 * product
                out[row, column + lane] = squared
                out[column + lane, row] = squared


def norms_of(sums: NDArray[np.float64], n_panels: int) -> NDArray[np.float64]:
    """Return the products of rows with themselves, ``[8 n_panels]``."""
    panel, lane = np.arange(n_panels)[:, None], np.arange(PANEL)
    norms: NDArray[np.float64] = sums[start_of(panel) + (panel * PANEL + lane) * PANEL + lane]
    return norms.ravel()
