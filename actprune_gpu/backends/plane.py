"""What the k-medoids sweep fixes beforehand, from the points alone, on any device."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

# Distances are integers of this many bits, so that sums of them are exact in any order.
DISTANCE_BITS = 30
# With fewer points than this, segments of k cost more than they give: one chain goes up, one down.
ONE_CHAIN = 384
_LONGEST_SEGMENT = 512  # values of k
_LEAF = 16  # points


def distance_unit(points: Tensor) -> float:
    """Return the power of two in units of which distances between ``points [N, 2]`` are counted."""
    width, height = (points.amax(0) - points.amin(0)).tolist()
    diagonal = math.hypot(width, height)
    exponent = math.frexp(diagonal)[1] if diagonal > 0 else 0
    return math.ldexp(1.0, exponent - DISTANCE_BITS)


def spatial_order(points: Tensor) -> Tensor:
    """Return an order ``[N]`` int64 in which neighbours lie together.

    A k-d tree: halves by x, quarters by y, and so on down to leaves of 16 points; equal coordinates
    keep their order.
    """
    n = len(points)
    n_leaves = -(-n // _LEAF)
    points = points + 0.0  # -0.0 becomes 0.0: sorts may or may not tell them apart
    place = torch.arange(n, device=points.device)
    order = place
    for level in range((n_leaves - 1).bit_length()):
        node = (place // _LEAF * 2**level) // n_leaves
        by_coordinate = points[order, level % 2].argsort(stable=True)
        order = order[by_coordinate[node[by_coordinate].argsort(stable=True)]]
    return order


def segments(n_points: int, shortest: int) -> list[tuple[int, int]]:
    """Return ranges ``(first, last)`` of k that cover 2..n_points-1, each done in a chain.

    They double in length, as the work for one k falls about as 1 / k, up to a limit.
    """
    bounds = [2]
    length = shortest
    while bounds[-1] < n_points:
        bounds.append(min(bounds[-1] + length, n_points))
        length = min(bounds[-1], _LONGEST_SEGMENT)
    return list(pairwise(bounds))


def middle(n_points: int) -> int:
    """Return the k before which the two chains of few points meet; small k cost more work."""
    return max(n_points // 3, 3)


def second_pass(n_points: int) -> list[tuple[int, int]]:
    """Return ``(k, stop)`` of the chains of the second pass, which cross with the first.

    With few points each of the two chains goes on where the other one has been; with many, all go
    down, in segments shifted against those before, so that what is good gets across their bounds.
    """
    if n_points < ONE_CHAIN:
        meet = middle(n_points)
        return [(meet - 1, n_points), (min(meet, n_points - 1), 1)]
    return [(min(last, n_points - 1), first - 1) for first, last in segments(n_points, 4)]
