"""The steps of the search: the best addition, the best swaps, the cheapest removal."""

from __future__ import annotations

import numpy as np

from ..compile import device, inlined, kernel
from .space import BLOCK, NONE, RADIUS, SLACK, before
from .state import (
    BEST,
    BEST_CANDIDATE,
    BOUND,
    CHANGED,
    CORRECTION,
    DROP,
    GAIN,
    HEAD,
    KNOWN_GAIN,
    LOWEST,
    MEMBER,
    MET,
    NEAR_DISTANCE,
    NEXT,
    PLACE,
    REACH,
    REMOVAL,
    SECOND_DISTANCE,
    STALE,
    START,
    STOP,
    UNKNOWN,
    add,
    add_block,
    ball,
    remove,
)

_MANY_MEMBERS = 64  # of a cluster, for which it pays to look at the pivots first


@inlined
def member_of(d, f, i, place, n_members):
    """Return a point's distances to all, to its medoid and to the next one, in 32 bits.

    ``place`` is that of the point in a cluster; beyond the last there is one that corrects nothing.
    """
    j = i[MEMBER, min(place, n_members - 1)]
    second = np.int32(f[SECOND_DISTANCE, j])
    return d[j], np.int32(f[NEAR_DISTANCE, j]) if place < n_members else second, second


@inlined
def correction_of(distance, near, second):
    """Return what a point corrects the gain of a candidate by, if it loses its own medoid."""
    return np.int32(min(np.int32(max(distance, near) - second), np.int32(0)))


@device
def correct(d, f, i, n_members, size):
    """Sum up the corrections of the candidates in the runs START .. STOP for a cluster's points.

    Four points at a time. As distances have 30 bits, 32 hold the sum of two corrections.
    """
    correction = f[CORRECTION]
    for t in range(size):
        correction[i[START, t] : i[STOP, t]] = 0.0
    for first in range(0, n_members, 4):
        row_0, near_0, second_0 = member_of(d, f, i, first, n_members)
        row_1, near_1, second_1 = member_of(d, f, i, first + 1, n_members)
        row_2, near_2, second_2 = member_of(d, f, i, first + 2, n_members)
        row_3, near_3, second_3 = member_of(d, f, i, first + 3, n_members)
        for t in range(size):
            for c in range(np.uintp(i[START, t]), np.uintp(i[STOP, t])):
                of_0 = correction_of(row_0[c], near_0, second_0)
                of_1 = correction_of(row_1[c], near_1, second_1)
                of_2 = correction_of(row_2[c], near_2, second_2)
                of_3 = correction_of(row_3[c], near_3, second_3)
                correction[c] += np.float64(np.int32(of_0 + of_1)) + np.int32(of_2 + of_3)


@device
def promising(d, f, i, medoid, n_members, size):
    """Leave of the runs START .. STOP those blocks that can hold the best candidate.

    No point of a block is closer than its pivot by more than its radius, which bounds what each
    point of the cluster adds to the correction.
    """
    n_blocks = f.shape[1] // BLOCK
    in_ball, bound, radius = f[DROP], f[BOUND], f[RADIUS]
    in_ball[:n_blocks] = 0.0
    for t in range(size):
        in_ball[i[START, t] // BLOCK : i[STOP, t] // BLOCK] = 1.0
    bound[:n_blocks] = 0.0
    for member in range(n_members):
        j = i[MEMBER, member]
        row, near, second = d[j, f.shape[1] :], f[NEAR_DISTANCE, j], f[SECOND_DISTANCE, j]
        for block in range(np.uintp(n_blocks)):
            distance = np.float64(row[block]) - radius[block]
            bound[block] += min(max(distance, near) - second, 0.0)
    lowest, first = 1.0, 0
    for block in range(n_blocks):
        bound[block] += f[LOWEST, block] - SLACK * n_members
        if in_ball[block] > 0.0 and bound[block] < lowest:
            lowest, first = bound[block], block
    i[START, 0], i[STOP, 0] = first * BLOCK, first * BLOCK + BLOCK
    correct(d, f, i, n_members, np.int64(1))
    f[CORRECTION, medoid] = 0.0
    best = 0.0
    for c in range(i[START, 0], i[STOP, 0]):
        if f[CORRECTION, c] < 0.0:
            best = min(best, f[CORRECTION, c] + f[GAIN, c])
    size = 0
    for block in range(n_blocks):
        if in_ball[block] > 0.0 and bound[block] <= best:
            size = add_block(i, size, block)
    return size


@kernel
def evaluate(d, f, i, medoid):
    """Find the best candidate in the ball of ``medoid``."""
    reach, n_members = 0.0, 0
    j = i[HEAD, medoid]
    while j != NONE:
        reach = max(reach, f[NEAR_DISTANCE, j] + f[SECOND_DISTANCE, j])
        i[MEMBER, n_members] = j
        n_members += 1
        j = i[NEXT, j]
    size = ball(d, f, i, medoid, reach + SLACK)
    if n_members >= _MANY_MEMBERS:
        size = promising(d, f, i, medoid, n_members, size)
    correct(d, f, i, n_members, size)
    correction, gain = f[CORRECTION], f[GAIN]
    correction[medoid] = 0.0  # for nothing would change
    # Where there is no correction the gain may change unseen; lowest_gain covers those.
    best, best_candidate = 1.0, np.int64(NONE)
    for t in range(size):
        for first in range(i[START, t], i[STOP, t], BLOCK):
            of_block = 1.0
            for lane in range(BLOCK):
                c = np.uintp(first + lane)
                of_block = min(of_block, gain[c] + correction[c] if correction[c] < 0.0 else 1.0)
            if of_block > best or of_block > 0.0:
                continue
            for c in range(first, first + BLOCK):
                if (
                    correction[c] < 0.0
                    and gain[c] + correction[c] == of_block
                    and (of_block < best or before(i, np.int64(c), best_candidate))
                ):
                    best, best_candidate = of_block, np.int64(c)
    f[REACH, medoid] = reach
    f[BEST, medoid] = best
    i[BEST_CANDIDATE, medoid] = best_candidate
    i[STALE, medoid] = 0


@device
def catch_up(d, f, i):
    """Make ``lowest`` and ``best`` allow for the gains that have changed."""
    size = 0
    for block in range(f.shape[1] // BLOCK):
        if not i[CHANGED, block]:
            continue
        i[CHANGED, block] = 0
        lowest, drop = 1.0, 0.0
        for lane in range(BLOCK):
            c = np.uintp(block * BLOCK + lane)
            lowest = min(lowest, f[GAIN, c])
            drop = max(drop, f[KNOWN_GAIN, c] - f[GAIN, c])
        for lane in range(BLOCK):
            c = np.uintp(block * BLOCK + lane)
            f[KNOWN_GAIN, c] = f[GAIN, c]
        f[LOWEST, block] = lowest
        f[DROP, block] = drop
        i[START, size] = block
        size += 1
    for own in range(f.shape[1] // BLOCK):
        met = 0
        for lane in range(BLOCK):
            met |= i[MET, np.uintp(own * BLOCK + lane)]
        if not met:
            continue
        for medoid in range(own * BLOCK, own * BLOCK + BLOCK):
            if not i[MET, medoid]:
                continue
            i[MET, medoid] = 0
            if f[BEST, medoid] == UNKNOWN:
                continue
            row, reach, drop = d[medoid], f[REACH, medoid] + SLACK, 0.0
            for t_block in range(size):
                block = i[START, t_block]
                if row[f.shape[1] + block] < reach + f[RADIUS, block]:
                    i[STALE, medoid] = 1
                    drop = max(drop, f[DROP, block])
            f[BEST, medoid] -= drop


@device
def lowest_gain(d, f):
    """Return the lowest gain of all points."""
    lowest = 0.0
    for block in range(f.shape[1] // BLOCK):
        lowest = min(lowest, f[LOWEST, block])
    return lowest


@device
def first_of_gain(d, f, i, gain):
    """Return the first point, medoids left out, that has this gain."""
    candidate = np.int64(NONE)
    for block in range(f.shape[1] // BLOCK):
        if f[LOWEST, block] == gain:
            for c in range(BLOCK * block, BLOCK * block + BLOCK):
                if f[GAIN, c] == gain and i[PLACE, c] == NONE and before(i, c, candidate):
                    candidate = np.int64(c)
    return candidate


@device
def descend(d, f, i, k):
    """Do the steepest swap until none lowers the loss."""
    while True:
        catch_up(d, f, i)
        lowest = lowest_gain(d, f)
        change, removed = 0.0, np.int64(NONE)
        for block in range(f.shape[1] // BLOCK):
            of_block = 0.0
            for lane in range(BLOCK):
                medoid = np.uintp(block * BLOCK + lane)
                of_block = min(of_block, f[REMOVAL, medoid] + min(f[BEST, medoid], lowest))
            if of_block >= 0.0 or of_block > change:
                continue
            for medoid in range(block * BLOCK, block * BLOCK + BLOCK):
                delta = f[REMOVAL, medoid] + min(f[BEST, medoid], lowest)
                if delta >= 0.0 or delta > change:
                    continue
                if i[STALE, medoid] and f[BEST, medoid] <= lowest:
                    evaluate(d, f, i, medoid)
                    delta = f[REMOVAL, medoid] + min(f[BEST, medoid], lowest)
                if delta < change or (
                    delta == change and delta < 0.0 and before(i, medoid, removed)
                ):
                    change, removed = delta, np.int64(medoid)
        if removed == NONE:
            return
        added = np.int64(NONE)
        if f[BEST, removed] <= lowest:
            added = i[BEST_CANDIDATE, removed]
        if f[BEST, removed] >= lowest:
            other = first_of_gain(d, f, i, lowest)
            if before(i, other, added):
                added = other
        add(d, f, i, k, added)
        remove(d, f, i, k, removed)


@device
def build(d, f, i, first, last):
    """Go from ``first`` to ``last`` medoids by the best additions: PAM's BUILD."""
    for k in range(first, last):
        catch_up(d, f, i)
        add(d, f, i, k, first_of_gain(d, f, i, lowest_gain(d, f)))


@device
def remove_cheapest(d, f, i, k):
    """Take out the one of k + 1 medoids whose points lose least by it, leaving k."""
    cheapest, removed = np.inf, np.int64(NONE)
    for block in range(f.shape[1] // BLOCK):
        of_block = np.inf
        for lane in range(BLOCK):
            of_block = min(of_block, f[REMOVAL, np.uintp(block * BLOCK + lane)])
        if of_block > cheapest:
            continue
        for medoid in range(block * BLOCK, block * BLOCK + BLOCK):
            removal = f[REMOVAL, medoid]
            if removal < cheapest or (removal == cheapest and before(i, medoid, removed)):
                cheapest, removed = removal, np.int64(medoid)
    remove(d, f, i, k, removed)
