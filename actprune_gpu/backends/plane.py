"""What the k-medoids sweep fixes beforehand, from the points alone, on any device."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

# Distances are integers of this many bits, so that sums of them are exact in any order.
DISTANCE_BITS = 30
# With fewer points than this, one chain goes up and one down: many in segments end higher.
_ONE_CHAIN = 640
# With fewer points than this, kicks and starts of other origin pay for themselves at once.
_FEW_POINTS = 192
# With more than this, neither does.
_MANY_POINTS = 1024
# With fewer clusters than this, the optima of single swaps differ most, and a k costs most.
_FEW_CLUSTERS = 18
# With fewer than this they still differ.
_SEVERAL_CLUSTERS = 28
# Where the two chains meet that get five kicks for each small k: then these take as long as well.
_MEETING = 14  # clusters
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


def has_segments(n_points: int) -> bool:
    """Return whether chains go over `segments` of k, not one of them up and one down."""
    return n_points >= _ONE_CHAIN


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
    """Return the k before which the two chains of few points meet, which then take as long."""
    return max(min(n_points // 3, _FEW_CLUSTERS if n_points < _FEW_POINTS else _MEETING), 3)


def second_pass(n_points: int) -> list[tuple[int, int]]:
    """Return ``(k, stop)`` of the chains of the second pass, which cross with the first.

    With few points each of the two chains goes on where the other one has been; with many, all go
    down, in segments shifted against those before, so that what is good gets across their bounds.
    """
    if not has_segments(n_points):
        meet = middle(n_points)
        return [(meet - 1, n_points), (min(meet, n_points - 1), 1)]
    return [(min(last, n_points - 1), first - 1) for first, last in segments(n_points, 4)]


def is_kicked(n_points: int) -> bool:
    """Return whether any clustering of so many points gets kicks."""
    return n_points <= _MANY_POINTS


def n_kicks(n_points: int, k: int, crossed: bool) -> int:
    """Return how many kicks a clustering by k gets.

    With few points every one does. With more, those by a small k do that have crossed with what was
    there before: five kicks give as much as the starts of third and fourth pass, in less time.
    """
    if k >= n_points - 1:
        return 0
    if n_points < _FEW_POINTS:
        return 3
    return 5 if crossed and k < _SEVERAL_CLUSTERS and n_points <= _MANY_POINTS else 0


def third_pass(n_points: int) -> list[tuple[int, int]]:
    """Return ``(k, stop)`` of the chains of the third pass: a step down to each small k.

    Each starts from k points at random, the first ones of ``at_random``, and crosses with the best
    so far, which all descends from one another.
    """
    if n_points >= _FEW_POINTS:
        return []
    return [(k + 1, k - 1) for k in range(min(_FEW_CLUSTERS, n_points) - 1, 1, -1)]


def fourth_pass(n_points: int) -> list[tuple[int, int]]:
    """Return ``(k, stop)`` of the chains of the fourth pass, all down, to each small k.

    Each starts from every second medoid, in spatial order, of the best clustering by 2k so far.
    That lies nearer to an optimum than points at random do, and leads to others.
    """
    largest = min(_SEVERAL_CLUSTERS, (n_points - 1) // 2)
    if n_points >= _FEW_POINTS:
        return []
    several = [(largest, _FEW_CLUSTERS - 1)] if largest > _FEW_CLUSTERS else []
    return several + [(k + 1, k - 1) for k in range(min(_FEW_CLUSTERS, largest) - 1, 1, -1)]


@cache
def at_random(n_points: int) -> Tensor:
    """Return the points ``[N]`` int64 in a random order that is always the same."""
    # Of all generators, this one is promised to give the same in every version of NumPy.
    return torch.from_numpy(np.random.RandomState(0).permutation(n_points))
