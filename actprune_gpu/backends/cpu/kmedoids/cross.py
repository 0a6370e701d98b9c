"""Two clusterings put together: of each region that they part alike, the better half."""

from __future__ import annotations

import numpy as np

from ..compile import device
from .space import NONE
from .state import CHANGE, EXCESS, NEAR, NEAR_DISTANCE, PLACE, ROOT, START, STOP, add, remove

_TAKEN = 1 << 20  # for the excess of a region that is taken over


@device
def root_of(i, point):
    """Return the first point of the region that ``point`` is in."""
    while i[ROOT, point] != point:
        i[ROOT, point] = i[ROOT, i[ROOT, point]]
        point = i[ROOT, point]
    return point


@device
def find_regions(d, f, i, near):
    """Part the medoids of both clusterings into regions, whose points have no others near.

    Regions go by their first point. Notes what the loss of each would change by; returns the change
    of all.
    """
    n = d.shape[0]
    for j in range(n):
        i[ROOT, j] = j
        i[EXCESS, j] = 0
        f[CHANGE, j] = 0.0
    for j in range(n):
        if near[j] != i[NEAR, j]:
            a, b = root_of(i, i[NEAR, j]), root_of(i, np.int64(near[j]))
            i[ROOT, max(a, b)] = min(a, b)
    total = 0.0
    for j in range(n):
        if near[j] != i[NEAR, j]:
            change = np.float64(d[j, near[j]]) - f[NEAR_DISTANCE, j]
            f[CHANGE, root_of(i, i[NEAR, j])] += change
            total += change
    return total


@device
def best_region(f, regions, size):
    """Return the lowest change of any of ``regions [size]``, and that region."""
    best, region = np.inf, np.int64(NONE)
    for t in range(size):
        if f[CHANGE, regions[t]] < best:
            best, region = f[CHANGE, regions[t]], regions[t]
    return best, region


@device
def choose_regions(f, i, n):
    """Take over regions that lower the loss; return by how much they do.

    These are the ones with as many medoids in both clusterings, and pairs of one that has one more
    with one that has one fewer.
    """
    gained, n_more, n_fewer = 0.0, np.int64(0), np.int64(0)
    all_more, all_fewer = i[START], i[STOP]
    for r in range(n):
        if i[EXCESS, r] == 0 and f[CHANGE, r] < 0.0:
            i[EXCESS, r] = _TAKEN
            gained += f[CHANGE, r]
        elif i[EXCESS, r] == 1:
            all_more[n_more] = r
            n_more += 1
        elif i[EXCESS, r] == -1:
            all_fewer[n_fewer] = r
            n_fewer += 1
    while True:
        by_more, more = best_region(f, all_more, n_more)
        by_fewer, fewer = best_region(f, all_fewer, n_fewer)
        if more == NONE or fewer == NONE or by_more + by_fewer >= 0.0:
            return gained
        gained += by_more + by_fewer
        for region in (more, fewer):
            i[EXCESS, region] = _TAKEN
            f[CHANGE, region] = np.inf


@device
def cross(d, f, i, k, near, is_medoid):
    """Take over what lowers the loss from another clustering by k medoids.

    Args: integer ``near [N]`` each point's medoid in it, uint8 ``is_medoid [N]`` flags of them. All
    of it is taken over where that lowers the loss more than the best of its regions.
    """
    n = d.shape[0]
    total = find_regions(d, f, i, near)
    for j in range(n):
        excess = is_medoid[j] - np.int64(i[PLACE, j] != NONE)
        if excess != 0:
            i[EXCESS, root_of(i, j)] += excess
    gained = choose_regions(f, i, n)
    if min(gained, total) >= 0.0:
        return
    for j in range(n):
        taken = total < gained or i[EXCESS, root_of(i, j)] == _TAKEN
        f[CHANGE, j] = is_medoid[j] - np.int64(i[PLACE, j] != NONE) if taken else 0
    last = k
    for j in range(n):
        if f[CHANGE, j] > 0.0:
            add(d, f, i, last, j)
            last += 1
    for j in range(n):
        if f[CHANGE, j] < 0.0:
            last -= 1
            remove(d, f, i, last, j)
