"""Where every point stands, and how an added or removed medoid changes that."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..compile import inlined, kernel
from .space import BLOCK, FAR, NONE, SLACK, before


class State(NamedTuple):
    """Nearest and second nearest medoid of every point, and what the swap search keeps.

    Medoids go by their point's number. Arrays are ``[M]``, the first ones float64 with integers in
    them, the later ones int64.
    """

    near_distance: Any
    second_distance: Any
    distance_sum: Any  # to all medoids
    gain: Any  # of each candidate, <= 0
    removal: Any  # loss added when the medoid goes
    reach: Any
    best: Any  # min over the ball of gain + correction
    correction: Any
    near: Any  # the point's medoid
    second: Any  # the next one
    medoids: Any  # the first k entries, in no order
    place: Any  # of each medoid in `medoids`, NONE for points that can become one
    head: Any  # of the linked list of each medoid's points
    next: Any
    previous: Any
    size: Any  # of each cluster
    best_candidate: Any
    touched: Any  # 1 for medoids to evaluate again
    starts: Any  # the ball: runs of points that hold it, starts[t] .. stops[t] - 1
    stops: Any


N_FLOATS = 8


def view(state: NDArray[np.float64]) -> State:
    """Name the rows of ``state [fields, M]``, the later ones as integers."""
    return State(*state[:N_FLOATS], *state[N_FLOATS:].view(np.int64))


@kernel
def clear(space, s):
    """Set up the state without medoids."""
    n = space.distances.shape[0]
    s.near[:] = NONE
    s.second[:] = NONE
    s.near_distance[:] = FAR
    s.second_distance[:] = FAR
    s.distance_sum[:] = 0.0
    s.gain[:] = 0.0
    s.place[:n] = NONE
    s.place[n:] = 0  # padding never becomes a medoid
    s.touched[:] = 0


@kernel
def unlink(s, point, medoid):
    before, after = s.previous[point], s.next[point]
    if before == NONE:
        s.head[medoid] = after
    else:
        s.next[before] = after
    if after != NONE:
        s.previous[after] = before
    s.size[medoid] -= 1


@kernel
def link(s, point, medoid):
    after = s.head[medoid]
    s.previous[point] = NONE
    s.next[point] = after
    if after != NONE:
        s.previous[after] = point
    s.head[medoid] = point
    s.size[medoid] += 1


@kernel
def ball(space, s, centre, radius):
    """List in ``s.starts, s.stops`` runs of blocks that hold all points closer than ``radius``.

    Returns their number.
    """
    row = space.distances[centre]
    size, last = 0, NONE
    for block in range(space.pivots.shape[0]):
        if row[space.pivots[block]] < radius + space.radii[block] + SLACK:
            if block == last:
                size -= 1
            else:
                s.starts[size] = block * BLOCK
            last = block + 1
            s.stops[size] = last * BLOCK
            size += 1
    return size


@inlined
def change_gain(space, s, size, point, old, new):
    """Account for ``point``'s distance to its medoid going from ``old`` to ``new``."""
    row, gain = space.distances[point], s.gain
    for t in range(size):
        for c in range(np.uintp(s.starts[t]), np.uintp(s.stops[t])):
            distance = np.float64(row[c])
            gain[c] += min(distance - new, 0.0) - min(distance - old, 0.0)


@kernel
def touch(space, s, k, centre, radius):
    """Mark the medoids whose ball meets the ball round ``centre`` in which gains changed."""
    row = space.distances[centre]
    for t in range(k):
        medoid = s.medoids[t]
        if row[medoid] < s.reach[medoid] + radius + SLACK:
            s.touched[medoid] = 1


@kernel
def add(space, s, k, added):
    """Make ``added`` the medoid number k, counted from 0."""
    row = space.distances[added]
    s.medoids[k] = added
    s.place[added] = k
    s.head[added] = NONE
    s.size[added] = 0
    s.reach[added] = 0.0
    s.touched[added] = 1
    radius = 0.0
    for block in range(space.pivots.shape[0]):
        first = BLOCK * block
        closer = 0
        for lane in range(BLOCK):
            j = np.uintp(first + lane)
            distance = np.float64(row[j])
            s.distance_sum[j] += distance
            closer |= distance <= s.second_distance[j]
        if not closer:
            continue
        for j in range(first, min(first + BLOCK, space.distances.shape[0])):
            distance = np.float64(row[j])
            near, old = s.near[j], s.near_distance[j]
            if distance < old or (distance == old and before(space, added, near)):
                s.second[j], s.second_distance[j] = near, old
                s.near[j], s.near_distance[j] = added, distance
                if near != NONE:
                    s.touched[near] = 1
                    unlink(s, j, near)
                link(s, j, added)
                radius = max(radius, distance + old)
            elif distance < s.second_distance[j] or (
                distance == s.second_distance[j] and before(space, added, s.second[j])
            ):
                s.second[j], s.second_distance[j] = added, distance
                s.touched[near] = 1
    size = ball(space, s, added, radius + SLACK)
    j = s.head[added]
    while j != NONE:
        old = s.second_distance[j] if k else 0.0  # there was nothing to gain on before
        change_gain(space, s, size, j, old, s.near_distance[j])
        j = s.next[j]
    touch(space, s, k + 1, added, radius + SLACK)


@kernel
def nearest(space, s, k, point, excluded):
    """Return the nearest of the k medoids to ``point``, one left out, and its distance."""
    row = space.distances[point]
    nearest, smallest = np.int64(NONE), np.int32(0x7FFFFFFF)
    for t in range(k):
        medoid = s.medoids[t]
        distance = row[medoid]
        if (
            distance <= smallest
            and medoid != excluded
            and (distance < smallest or before(space, medoid, nearest))
        ):
            nearest, smallest = medoid, distance
    return nearest, np.float64(smallest)


@kernel
def remove(space, s, k, removed):
    """Take ``removed`` out of the k + 1 medoids, leaving k."""
    row = space.distances[removed]
    place = s.place[removed]
    s.medoids[place] = s.medoids[k]
    s.place[s.medoids[k]] = place
    s.place[removed] = NONE
    radius = 0.0
    j = s.head[removed]
    while j != NONE:
        radius = max(radius, s.near_distance[j] + s.second_distance[j])
        j = s.next[j]
    size = ball(space, s, removed, radius + SLACK)
    j = s.head[removed]
    while j != NONE:
        after = s.next[j]
        change_gain(space, s, size, j, s.near_distance[j], s.second_distance[j])
        s.near[j], s.near_distance[j] = s.second[j], s.second_distance[j]
        s.second[j] = removed  # found again below
        link(s, j, s.near[j])
        j = after
    for block in range(space.pivots.shape[0]):
        first = BLOCK * block
        concerned = 0
        for lane in range(BLOCK):
            j = np.uintp(first + lane)
            s.distance_sum[j] -= np.float64(row[j])
            concerned |= s.second[j] == removed
        if concerned:
            for j in range(first, first + BLOCK):
                if s.second[j] == removed:
                    near = s.near[j]
                    s.second[j], s.second_distance[j] = nearest(space, s, k, j, near)
                    s.touched[near] = 1
    touch(space, s, k, removed, radius + SLACK)


@kernel
def load(space, s, is_medoid):
    """Set up the state with the medoids flagged in ``is_medoid [N]``."""
    n = space.distances.shape[0]
    clear(space, s)
    k = 0
    for point in range(n):
        if is_medoid[point]:
            s.medoids[k] = point
            s.place[point] = k
            s.head[point] = NONE
            s.size[point] = 0
            s.touched[point] = 1
            row = space.distances[point]
            for j in range(n):
                s.distance_sum[j] += np.float64(row[j])
            k += 1
    for j in range(n):
        near, s.near_distance[j] = nearest(space, s, k, j, NONE)
        s.near[j] = near
        s.second[j], s.second_distance[j] = nearest(space, s, k, j, near)
        link(s, j, near)
    for t in range(k):
        radius = 0.0
        j = s.head[s.medoids[t]]
        while j != NONE:
            radius = max(radius, 2.0 * s.near_distance[j])
            j = s.next[j]
        size = ball(space, s, s.medoids[t], radius + SLACK)
        j = s.head[s.medoids[t]]
        while j != NONE:
            change_gain(space, s, size, j, 0.0, s.near_distance[j])
            j = s.next[j]
