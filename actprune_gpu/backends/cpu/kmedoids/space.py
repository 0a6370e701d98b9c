"""The points: exact distances, and blocks of neighbours to look at together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...plane import DISTANCE_BITS
from ..compile import inlined, kernel
from ..threads import in_threads

BLOCK = 16
NONE = -1
_CACHE_LINE = 64  # bytes: as many distances as a block has
FAR = 2.0 ** (DISTANCE_BITS + 1)
# Rounding to fixed point can break the triangle inequality by this many units.
SLACK = 2.0


# What is said of the points themselves: the first rows of the arrays f and i of `state`, for
# distances ``d [N, >= M + M / 16]`` int32, M = N padded to whole blocks, to every point and pivot.
RADIUS = 0  # of f: of each block, from its pivot to its farthest point
FIRST_FLOAT = 1
NUMBER = 0  # of i: each point's own number, by which ties are settled
FIRST_INTEGER = 1


@kernel
def fill_distances(points, scale, first, last, out):
    """Fill rows of ``out [N, M]`` int32 with rint(scale * Euclidean distance), padded with far."""
    n = points.shape[0]
    for i in range(first, last):
        xi, yi = points[i, 0], points[i, 1]
        for j in range(n):
            dx, dy = xi - points[j, 0], yi - points[j, 1]
            out[i, j] = np.int32(scale * np.sqrt(dx * dx + dy * dy) + 0.5)
        out[i, n:] = np.int32(0x7FFFFFFF)


@kernel
def find_pivots(d, f, pivots):
    """Choose for each block the point from which the farthest one of the block is nearest.

    They are put down in ``pivots [M / 16]``, and their distances to all points behind the others.
    """
    n = d.shape[0]
    for block in range(f.shape[1] // BLOCK):
        first, last = block * BLOCK, min(n, block * BLOCK + BLOCK)
        f[RADIUS, block] = FAR
        for point in range(first, last):
            radius = 0.0
            for other in range(first, last):
                radius = max(radius, np.float64(d[point, other]))
            if radius < f[RADIUS, block]:
                pivots[block], f[RADIUS, block] = point, radius
    for point in range(n):
        for block in range(f.shape[1] // BLOCK):
            d[point, f.shape[1] + block] = d[point, pivots[block]]


@inlined
def before(i, point, other):
    """Return whether ``point`` goes before ``other`` where they are equally good."""
    return point != NONE and (other == NONE or i[NUMBER, point] < i[NUMBER, other])


def fixed_point(points: NDArray[np.float64], unit: float) -> NDArray[np.int32]:
    """Return distances ``[N, >= M + M / 16]`` in units of ``unit``, without those to pivots."""
    n = len(points)
    n_blocks = -(-n // BLOCK)
    # A block of a row lies in one cache line, not across two.
    width = n_blocks * BLOCK + -(-n_blocks // BLOCK) * BLOCK
    room = np.empty(n * width + BLOCK, np.int32)
    start = -room.ctypes.data % _CACHE_LINE // room.itemsize
    distances = room[start : start + n * width].reshape(n, width)
    in_threads(
        lambda first, last: fill_distances(points, 1.0 / unit, first, last, distances),
        n_items=n,
        work=distances.size,
    )
    return distances
