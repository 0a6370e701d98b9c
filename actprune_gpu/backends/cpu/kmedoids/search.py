"""The steps of the search: the best addition, the best swaps, the cheapest removal."""

from __future__ import annotations

import numpy as np

from ..compile import kernel
from .space import BLOCK, NONE, SLACK, before
from .state import add, ball, remove


@kernel
def evaluate(space, s, medoid):
    """Find the best candidate in the ball of ``medoid``."""
    removal, reach = 0.0, 0.0
    j = s.head[medoid]
    while j != NONE:
        removal += s.second_distance[j] - s.near_distance[j]
        reach = max(reach, s.near_distance[j] + s.second_distance[j])
        j = s.next[j]
    size = ball(space, s, medoid, reach + SLACK)
    correction, gain = s.correction, s.gain
    for t in range(size):
        correction[s.starts[t] : s.stops[t]] = 0.0
    j = s.head[medoid]
    while j != NONE:
        row, near, second = space.distances[j], s.near_distance[j], s.second_distance[j]
        for t in range(size):
            for c in range(np.uintp(s.starts[t]), np.uintp(s.stops[t])):
                distance = np.float64(row[c])
                correction[c] += min(max(distance, near) - second, 0.0)
        j = s.next[j]
    best, best_candidate = 1.0, np.int64(NONE)
    for t in range(size):
        for c in range(np.uintp(s.starts[t]), np.uintp(s.stops[t])):
            # Where there is no correction the gain may change unseen; lowest_gain covers those.
            if correction[c] < 0.0 and gain[c] + correction[c] <= best:
                value = gain[c] + correction[c]
                if value < best or before(space, np.int64(c), best_candidate):
                    best, best_candidate = value, np.int64(c)
    s.removal[medoid] = removal
    s.reach[medoid] = reach
    s.best[medoid] = best
    s.best_candidate[medoid] = best_candidate


@kernel
def lowest_gain(space, s):
    """Return the lowest gain and the first point, medoids left out, that has it."""
    lowest = 1.0
    for first in range(0, s.gain.shape[0], BLOCK):
        of_block = 1.0
        for lane in range(BLOCK):
            of_block = min(of_block, s.gain[np.uintp(first + lane)])
        lowest = min(lowest, of_block)
    candidate = np.int64(NONE)
    for c in range(s.gain.shape[0]):
        if s.gain[c] == lowest and s.place[c] == NONE and before(space, c, candidate):
            candidate = np.int64(c)
    return lowest, candidate


@kernel
def descend(space, s, k):
    """Do the steepest swap until none lowers the loss."""
    while True:
        for t in range(k):
            medoid = s.medoids[t]
            if s.touched[medoid]:
                s.touched[medoid] = 0
                evaluate(space, s, medoid)
        lowest, lowest_candidate = lowest_gain(space, s)
        change, removed = 0.0, np.int64(NONE)
        for t in range(k):
            medoid = s.medoids[t]
            delta = s.removal[medoid] + min(s.best[medoid], lowest)
            if delta < change or (
                delta == change and delta < 0.0 and before(space, medoid, removed)
            ):
                change, removed = delta, medoid
        if removed == NONE:
            return
        added = s.best_candidate[removed]
        if s.best[removed] > lowest or (
            s.best[removed] == lowest and before(space, lowest_candidate, added)
        ):
            added = lowest_candidate
        add(space, s, k, added)
        remove(space, s, k, removed)


@kernel
def build(space, s, first, last):
    """Go from ``first`` to ``last`` medoids by the best additions: PAM's BUILD."""
    for k in range(first, last):
        _, added = lowest_gain(space, s)
        add(space, s, k, added)


@kernel
def remove_cheapest(space, s, k):
    """Take out the one of k + 1 medoids whose points lose least by it, leaving k."""
    cheapest, removed = np.inf, np.int64(NONE)
    for t in range(k + 1):
        medoid = s.medoids[t]
        removal = 0.0
        j = s.head[medoid]
        while j != NONE:
            removal += s.second_distance[j] - s.near_distance[j]
            j = s.next[j]
        if removal < cheapest or (removal == cheapest and before(space, medoid, removed)):
            cheapest, removed = removal, medoid
    remove(space, s, k, removed)
