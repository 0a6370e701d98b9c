"""Where every point stands, and how an added or removed medoid changes that.

All of it lies in two arrays, so that a call passes few arguments and a copy is one copy: ``f``
float64, with integers in it, and ``i`` int64, both ``[fields, M]``. Medoids go by their point's
number, and what is looked for among all of them is found in blocks of points, one vector each:
points that are none have values that never match.
"""

from __future__ import annotations

import numpy as np

from ..compile import device, inlined
from .space import (
    BLOCK,
    FAR,
    FIRST_FLOAT,
    FIRST_INTEGER,
    NONE,
    RADIUS,
    SLACK,
    before,
)

# Rows of f.
N_FLOATS = FIRST_FLOAT + 13
(
    NEAR_DISTANCE,
    SECOND_DISTANCE,
    DISTANCE_SUM,  # to all medoids
    GAIN,  # of each candidate, <= 0
    KNOWN_GAIN,  # what it was when BEST was last made to allow for it
    REMOVAL,  # loss added when the medoid goes, far too much where there is none
    REACH,  # of the medoid, far below 0 where there is none
    BEST,  # at most the min over the ball of gain + correction, that if not STALE
    CORRECTION,
    LOWEST,  # gain in each block
    DROP,  # largest, of a gain in each block
    BOUND,  # at most what a candidate of each block would change
    CHANGE,  # of the loss, where a region is taken over from another clustering
) = range(FIRST_FLOAT, N_FLOATS)

# Rows of i.
N_INTEGERS = FIRST_INTEGER + 17
(
    NEAR,  # the point's medoid
    SECOND,  # the next one
    MEDOID,  # the first k entries, in no order
    PLACE,  # of each medoid in MEDOID, NONE for points that can become one
    HEAD,  # of the linked list of each medoid's points
    NEXT,
    PREVIOUS,
    SIZE,  # of each cluster
    BEST_CANDIDATE,
    STALE,  # 1 for medoids whose BEST may be lower than it should
    MET,  # 1 for medoids in whose balls gains may have changed
    CHANGED,  # 1 for blocks in which they have
    START,  # the ball: runs of points that hold it, START[t] .. STOP[t] - 1
    STOP,
    MEMBER,  # the points of one cluster
    ROOT,  # leads to the first point of the region that a point is in
    EXCESS,  # medoids that another clustering has more in a region
) = range(FIRST_INTEGER, N_INTEGERS)

UNKNOWN = -(2.0**60)  # of BEST: lower than any
_NO_MEDOID = 2.0**62

_MANY_MEDOIDS = 128  # more than there are blocks: then it pays to look at the pivots first


@device
def clear(d, f, i):
    """Set up the state without medoids."""
    n = d.shape[0]
    i[NEAR, :] = NONE
    i[SECOND, :] = NONE
    f[NEAR_DISTANCE, :] = FAR
    f[SECOND_DISTANCE, :] = FAR
    f[DISTANCE_SUM, :] = 0.0
    f[GAIN, :] = 0.0
    f[KNOWN_GAIN, :] = 0.0
    f[LOWEST, :] = 0.0
    f[REMOVAL, :] = _NO_MEDOID
    f[BEST, :] = 0.0
    f[REACH, :] = -_NO_MEDOID
    i[PLACE, :n] = NONE
    i[PLACE, n:] = 0  # padding never becomes a medoid
    i[STALE, :] = 0
    i[MET, :] = 0
    i[CHANGED, :] = 1


@device
def unlink(i, point, medoid):
    before, after = i[PREVIOUS, point], i[NEXT, point]
    if before == NONE:
        i[HEAD, medoid] = after
    else:
        i[NEXT, before] = after
    if after != NONE:
        i[PREVIOUS, after] = before
    i[SIZE, medoid] -= 1


@device
def link(i, point, medoid):
    after = i[HEAD, medoid]
    i[PREVIOUS, point] = NONE
    i[NEXT, point] = after
    if after != NONE:
        i[PREVIOUS, after] = point
    i[HEAD, medoid] = point
    i[SIZE, medoid] += 1


@inlined
def add_block(i, size, block):
    """Put the next ``block`` to the runs START .. STOP, ``size`` of them; return their number."""
    if size == 0 or i[STOP, size - 1] != block * BLOCK:
        i[START, size] = block * BLOCK
        size += 1
    i[STOP, size - 1] = (block + 1) * BLOCK
    return size


@device
def ball(d, f, i, centre, radius):
    """List in ``i[START], i[STOP]`` runs of blocks that hold all points closer than ``radius``.

    Returns their number.
    """
    row = d[centre]
    size = 0
    for block in range(f.shape[1] // BLOCK):
        if row[f.shape[1] + block] < radius + f[RADIUS, block] + SLACK:
            size = add_block(i, size, block)
    return size


@inlined
def change_gain(d, f, i, size, point, old, new):
    """Account for ``point``'s distance to its medoid going from ``old`` to ``new``."""
    row, gain = d[point], f[GAIN]
    for t in range(size):
        for c in range(np.uintp(i[START, t]), np.uintp(i[STOP, t])):
            distance = np.float64(row[c])
            gain[c] += min(distance - new, 0.0) - min(distance - old, 0.0)


@device
def announce(d, f, i, centre, radius, size):
    """Note that gains changed in the ball round ``centre``, and which medoids' balls meet it."""
    for t in range(size):
        for block in range(i[START, t] // BLOCK, i[STOP, t] // BLOCK):
            i[CHANGED, block] = 1
    row, met, reach = d[centre], i[MET], f[REACH]
    for j in range(np.uintp(f.shape[1])):
        met[j] |= np.float64(row[j]) < reach[j] + (radius + SLACK)


@device
def add(d, f, i, k, added):
    """Make ``added`` the medoid number k, counted from 0."""
    row = d[added]
    i[MEDOID, k] = added
    i[PLACE, added] = k
    i[HEAD, added] = NONE
    i[SIZE, added] = 0
    f[REMOVAL, added] = 0.0
    f[REACH, added] = 0.0
    i[STALE, added], f[BEST, added] = 1, UNKNOWN
    i[MET, added] = 0
    radius = 0.0
    for block in range(f.shape[1] // BLOCK):
        first = BLOCK * block
        closer = 0
        for lane in range(BLOCK):
            j = np.uintp(first + lane)
            closer |= np.float64(row[j]) <= f[SECOND_DISTANCE, j]
        for lane in range(BLOCK):
            j = np.uintp(first + lane)
            f[DISTANCE_SUM, j] += np.float64(row[j])
        if not closer:
            continue
        for j in range(first, min(first + BLOCK, d.shape[0])):
            distance = np.float64(row[j])
            near, old = i[NEAR, j], f[NEAR_DISTANCE, j]
            if distance < old or (distance == old and before(i, added, near)):
                if near != NONE:
                    f[REMOVAL, near] -= f[SECOND_DISTANCE, j] - old
                    i[STALE, near] = 1
                    unlink(i, j, near)
                i[SECOND, j], f[SECOND_DISTANCE, j] = near, old
                i[NEAR, j], f[NEAR_DISTANCE, j] = added, distance
                link(i, j, added)
                f[REMOVAL, added] += old - distance
                radius = max(radius, distance + old)
            elif distance < f[SECOND_DISTANCE, j] or (
                distance == f[SECOND_DISTANCE, j] and before(i, added, i[SECOND, j])
            ):
                f[REMOVAL, near] -= f[SECOND_DISTANCE, j] - distance
                i[SECOND, j], f[SECOND_DISTANCE, j] = added, distance
                i[STALE, near] = 1
    size = ball(d, f, i, added, radius + SLACK)
    j = i[HEAD, added]
    while j != NONE:
        old = f[SECOND_DISTANCE, j] if k else 0.0  # there was nothing to gain on before
        change_gain(d, f, i, size, j, old, f[NEAR_DISTANCE, j])
        j = i[NEXT, j]
    announce(d, f, i, added, radius + SLACK, size)


@inlined
def closer(i, medoid, distance, nearest, smallest):
    """Return whether ``medoid`` at ``distance`` goes before the ``nearest`` so far."""
    return distance <= smallest and (distance < smallest or before(i, medoid, nearest))


@device
def nearest(d, f, i, k, point, excluded):
    """Return the nearest of the k medoids to ``point``, one left out, and its distance."""
    row = d[point]
    nearest, smallest = np.int64(NONE), np.int32(0x7FFFFFFF)
    n_blocks = f.shape[1] // BLOCK
    if k < n_blocks + _MANY_MEDOIDS:
        for t in range(k):
            medoid = i[MEDOID, t]
            distance = row[medoid]
            if medoid != excluded and closer(i, medoid, distance, nearest, smallest):
                nearest, smallest = medoid, distance
        return nearest, np.float64(smallest)
    own = point // BLOCK
    to_pivot = row[f.shape[1] :]
    for t in range(-1, n_blocks):
        block = own if t < 0 else t  # first, for then most others are too far away
        if t != own and to_pivot[block] - f[RADIUS, block] - SLACK <= smallest:
            for medoid in range(BLOCK * block, min(BLOCK * block + BLOCK, d.shape[0])):
                distance = row[medoid]
                if (
                    i[PLACE, medoid] != NONE
                    and medoid != excluded
                    and closer(i, medoid, distance, nearest, smallest)
                ):
                    nearest, smallest = np.int64(medoid), distance
    return nearest, np.float64(smallest)


@device
def remove(d, f, i, k, removed):
    """Take ``removed`` out of the k + 1 medoids, leaving k."""
    row = d[removed]
    place = i[PLACE, removed]
    i[MEDOID, place] = i[MEDOID, k]
    i[PLACE, i[MEDOID, k]] = place
    i[PLACE, removed] = NONE
    radius = 0.0
    j = i[HEAD, removed]
    while j != NONE:
        radius = max(radius, f[NEAR_DISTANCE, j] + f[SECOND_DISTANCE, j])
        j = i[NEXT, j]
    size = ball(d, f, i, removed, radius + SLACK)
    j = i[HEAD, removed]
    while j != NONE:
        after = i[NEXT, j]
        change_gain(d, f, i, size, j, f[NEAR_DISTANCE, j], f[SECOND_DISTANCE, j])
        i[NEAR, j], f[NEAR_DISTANCE, j] = i[SECOND, j], f[SECOND_DISTANCE, j]
        i[SECOND, j] = removed  # found again below
        link(i, j, i[NEAR, j])
        j = after
    for block in range(f.shape[1] // BLOCK):
        first = BLOCK * block
        concerned = 0
        for lane in range(BLOCK):
            j = np.uintp(first + lane)
            f[DISTANCE_SUM, j] -= np.float64(row[j])
        for lane in range(BLOCK):
            concerned |= i[SECOND, np.uintp(first + lane)] == removed
        if concerned:
            for j in range(first, first + BLOCK):
                if i[SECOND, j] == removed:
                    near, old = i[NEAR, j], f[SECOND_DISTANCE, j]
                    i[SECOND, j], f[SECOND_DISTANCE, j] = nearest(d, f, i, k, j, near)
                    f[REMOVAL, near] += f[SECOND_DISTANCE, j] - old
                    i[STALE, near], f[BEST, near] = 1, UNKNOWN
    f[REMOVAL, removed], f[REACH, removed] = _NO_MEDOID, -_NO_MEDOID
    announce(d, f, i, removed, radius + SLACK, size)


@device
def load(d, f, i, is_medoid):
    """Set up the state with the medoids flagged in ``is_medoid [N]``."""
    n = d.shape[0]
    clear(d, f, i)
    k = np.int64(0)
    for point in range(n):
        if is_medoid[point]:
            i[MEDOID, k] = point
            i[PLACE, point] = k
            i[HEAD, point] = NONE
            i[SIZE, point] = 0
            f[REMOVAL, point] = 0.0
            i[STALE, point], f[BEST, point] = 1, UNKNOWN
            row = d[point]
            for j in range(n):
                f[DISTANCE_SUM, j] += np.float64(row[j])
            k += 1
    for j in range(n):
        near, f[NEAR_DISTANCE, j] = nearest(d, f, i, k, j, np.int64(NONE))
        i[NEAR, j] = near
        i[SECOND, j], f[SECOND_DISTANCE, j] = nearest(d, f, i, k, j, near)
        f[REMOVAL, near] += f[SECOND_DISTANCE, j] - f[NEAR_DISTANCE, j]
        link(i, j, near)
    for t in range(k):
        radius = 0.0
        j = i[HEAD, i[MEDOID, t]]
        while j != NONE:
            radius = max(radius, 2.0 * f[NEAR_DISTANCE, j])
            j = i[NEXT, j]
        size = ball(d, f, i, i[MEDOID, t], radius + SLACK)
        j = i[HEAD, i[MEDOID, t]]
        while j != NONE:
            change_gain(d, f, i, size, j, 0.0, f[NEAR_DISTANCE, j])
            j = i[NEXT, j]


@device
def loss_of(f, n):
    loss = 0.0
    for j in range(n):
        loss += f[NEAR_DISTANCE, j]
    return loss
