"""k-medoids for every k = 2..N-1, in about N^2 log N, with the simplified silhouettes for free.

The sweep walks up the k axis in segments. A segment starts from PAM's greedy BUILD and descends to
an optimum; then each k starts from the optimum of k - 1 plus the best addition, and about one swap
is left to do. Then it walks down, each k from the optimum of k + 1 less the cheapest medoid, and up
again, and keeps the best that it has seen of each k. Every swap is the steepest one of all (medoid,
candidate) pairs, with ties to the lowest medoid and then the lowest candidate, so the result does
not depend on how the search is organised, and the segments depend on N alone.

The loss change of "remove medoid i, add candidate c" splits into (Schubert and Rousseeuw 2021)

    removal[i] + gain[c] + correction(i, c)

where gain[c] = sum_j min(D[c, j] - near_j, 0) over all points, removal[i] is the sum of
second_j - near_j over the points of cluster i, and correction(i, c) the sum over the same points of
min(max(D[c, j], near_j) - second_j, 0). The correction is 0 unless c is closer to some point of
the cluster than that point's second medoid, which the triangle inequality confines to a ball round
medoid i of radius reach[i] = max_j near_j + second_j; it is never positive. So the best swap of i
is removal[i] + min(best[i], min_c gain[c]), best[i] = min of gain[c] + correction where that is not
0, and after an addition or a removal only the medoids whose balls it touches are evaluated again.

Distances are integers (fixed point): their sums are exact in any order, as long as they stay below
2**53, in float64 too, which vector units can do. Points are put in an order in which neighbours lie
together, and looked at in blocks of 16; that order has no influence on the result.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..protocol import Sweep
from .compile import inlined, kernel
from .math import float_bits
from .threads import Tasks, in_threads, n_threads

_DISTANCE_BITS = 30
_LONGEST_SEGMENT = 512  # values of k
_FEW_CLUSTERS = 64  # with more, going back to the best costs more than it gives
# Ways down and up again after the first way up: (up to this many points, ways), then one.
_WAYS = ((192, 4), (512, 2))
_BLOCK = 16
_MIN_PARALLEL = 192  # points; with fewer, other threads wake up too late to help
# Rounding to fixed point can break the triangle inequality by this many units.
_SLACK = 2.0
_FAR = 2.0 ** (_DISTANCE_BITS + 1)
_NONE = -1
# Silhouettes are summed in this fixed point, exact in any order; adding 1.5 * 2**52 rounds to it.
_SILHOUETTE_UNIT = 2.0**40
_ROUND = 6755399441055744.0


class _Space(NamedTuple):
    """The points in blocks, the same for every k."""

    distances: Any  # [N, M] int32, M = N padded to whole blocks
    pivots: Any  # [B] int64, a point of each block
    radii: Any  # [B] float64, from the pivot to the farthest point of the block
    numbers: Any  # [M] int64, the points' own numbers, by which ties are settled


class _State(NamedTuple):
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
    place: Any  # of each medoid in `medoids`, _NONE for points that can become one
    head: Any  # of the linked list of each medoid's points
    next: Any
    previous: Any
    size: Any  # of each cluster
    best_candidate: Any
    touched: Any  # 1 for medoids to evaluate again
    starts: Any  # the ball: runs of points that hold it, starts[t] .. stops[t] - 1
    stops: Any


_N_FLOATS = 8


@kernel
def _fill_distances(points, scale, first, last, out):
    """Fill rows of ``out [N, M]`` int32 with rint(scale * Euclidean distance), padded with far."""
    n = points.shape[0]
    for i in range(first, last):
        xi, yi = points[i, 0], points[i, 1]
        for j in range(n):
            dx, dy = xi - points[j, 0], yi - points[j, 1]
            out[i, j] = np.int32(scale * np.sqrt(dx * dx + dy * dy) + 0.5)
        out[i, n:] = np.int32(0x7FFFFFFF)


@kernel
def _find_pivots(distances, pivots, radii, numbers):
    n = distances.shape[0]
    for block in range(pivots.shape[0]):
        first, last = block * _BLOCK, min(n, block * _BLOCK + _BLOCK)
        pivots[block] = first
        radii[block] = _FAR
        for point in range(first, last):
            radius = np.float64(distances[point, first:last].max())
            if radius < radii[block]:
                pivots[block], radii[block] = point, radius


@inlined
def _before(space, point, other):
    """Return whether ``point`` goes before ``other`` where they are equally good."""
    return point != _NONE and (other == _NONE or space.numbers[point] < space.numbers[other])


@kernel
def _unlink(s, point, medoid):
    before, after = s.previous[point], s.next[point]
    if before == _NONE:
        s.head[medoid] = after
    else:
        s.next[before] = after
    if after != _NONE:
        s.previous[after] = before
    s.size[medoid] -= 1


@kernel
def _link(s, point, medoid):
    after = s.head[medoid]
    s.previous[point] = _NONE
    s.next[point] = after
    if after != _NONE:
        s.previous[after] = point
    s.head[medoid] = point
    s.size[medoid] += 1


@kernel
def _ball(space, s, centre, radius):
    """List in ``s.starts, s.stops`` runs of blocks that hold all points closer than ``radius``.

    Returns their number.
    """
    row = space.distances[centre]
    size, last = 0, _NONE
    for block in range(space.pivots.shape[0]):
        if row[space.pivots[block]] < radius + space.radii[block] + _SLACK:
            if block == last:
                size -= 1
            else:
                s.starts[size] = block * _BLOCK
            last = block + 1
            s.stops[size] = last * _BLOCK
            size += 1
    return size


@inlined
def _change_gain(space, s, size, point, old, new):
    """Account for ``point``'s distance to its medoid going from ``old`` to ``new``."""
    row, gain = space.distances[point], s.gain
    for t in range(size):
        for c in range(np.uintp(s.starts[t]), np.uintp(s.stops[t])):
            distance = np.float64(row[c])
            gain[c] += min(distance - new, 0.0) - min(distance - old, 0.0)


@kernel
def _touch(space, s, k, centre, radius):
    """Mark the medoids whose ball meets the ball round ``centre`` in which gains changed."""
    row = space.distances[centre]
    for t in range(k):
        medoid = s.medoids[t]
        if row[medoid] < s.reach[medoid] + radius + _SLACK:
            s.touched[medoid] = 1


@kernel
def _add(space, s, k, added):
    """Make ``added`` the medoid number k, counted from 0."""
    row = space.distances[added]
    s.medoids[k] = added
    s.place[added] = k
    s.head[added] = _NONE
    s.size[added] = 0
    s.reach[added] = 0.0
    s.touched[added] = 1
    radius = 0.0
    for block in range(space.pivots.shape[0]):
        first = _BLOCK * block
        closer = 0
        for lane in range(_BLOCK):
            j = np.uintp(first + lane)
            distance = np.float64(row[j])
            s.distance_sum[j] += distance
            closer |= distance <= s.second_distance[j]
        if not closer:
            continue
        for j in range(first, min(first + _BLOCK, space.distances.shape[0])):
            distance = np.float64(row[j])
            near, old = s.near[j], s.near_distance[j]
            if distance < old or (distance == old and _before(space, added, near)):
                s.second[j], s.second_distance[j] = near, old
                s.near[j], s.near_distance[j] = added, distance
                if near != _NONE:
                    s.touched[near] = 1
                    _unlink(s, j, near)
                _link(s, j, added)
                radius = max(radius, distance + old)
            elif distance < s.second_distance[j] or (
                distance == s.second_distance[j] and _before(space, added, s.second[j])
            ):
                s.second[j], s.second_distance[j] = added, distance
                s.touched[near] = 1
    size = _ball(space, s, added, radius + _SLACK)
    j = s.head[added]
    while j != _NONE:
        old = s.second_distance[j] if k else 0.0  # there was nothing to gain on before
        _change_gain(space, s, size, j, old, s.near_distance[j])
        j = s.next[j]
    _touch(space, s, k + 1, added, radius + _SLACK)


@kernel
def _nearest(space, s, k, point, excluded):
    """Return the nearest of the k medoids to ``point``, one left out, and its distance."""
    row = space.distances[point]
    nearest, smallest = np.int64(_NONE), np.int32(0x7FFFFFFF)
    for t in range(k):
        medoid = s.medoids[t]
        distance = row[medoid]
        if (
            distance <= smallest
            and medoid != excluded
            and (distance < smallest or _before(space, medoid, nearest))
        ):
            nearest, smallest = medoid, distance
    return nearest, np.float64(smallest)


@kernel
def _remove(space, s, k, removed):
    """Take ``removed`` out of the k + 1 medoids, leaving k."""
    row = space.distances[removed]
    place = s.place[removed]
    s.medoids[place] = s.medoids[k]
    s.place[s.medoids[k]] = place
    s.place[removed] = _NONE
    radius = 0.0
    j = s.head[removed]
    while j != _NONE:
        radius = max(radius, s.near_distance[j] + s.second_distance[j])
        j = s.next[j]
    size = _ball(space, s, removed, radius + _SLACK)
    j = s.head[removed]
    while j != _NONE:
        after = s.next[j]
        _change_gain(space, s, size, j, s.near_distance[j], s.second_distance[j])
        s.near[j], s.near_distance[j] = s.second[j], s.second_distance[j]
        s.second[j] = removed  # found again below
        _link(s, j, s.near[j])
        j = after
    for block in range(space.pivots.shape[0]):
        first = _BLOCK * block
        concerned = 0
        for lane in range(_BLOCK):
            j = np.uintp(first + lane)
            s.distance_sum[j] -= np.float64(row[j])
            concerned |= s.second[j] == removed
        if concerned:
            for j in range(first, first + _BLOCK):
                if s.second[j] == removed:
                    near = s.near[j]
                    s.second[j], s.second_distance[j] = _nearest(space, s, k, j, near)
                    s.touched[near] = 1
    _touch(space, s, k, removed, radius + _SLACK)


@kernel
def _evaluate(space, s, medoid):
    """Find the best candidate in the ball of ``medoid``."""
    removal, reach = 0.0, 0.0
    j = s.head[medoid]
    while j != _NONE:
        removal += s.second_distance[j] - s.near_distance[j]
        reach = max(reach, s.near_distance[j] + s.second_distance[j])
        j = s.next[j]
    size = _ball(space, s, medoid, reach + _SLACK)
    correction, gain = s.correction, s.gain
    for t in range(size):
        correction[s.starts[t] : s.stops[t]] = 0.0
    j = s.head[medoid]
    while j != _NONE:
        row, near, second = space.distances[j], s.near_distance[j], s.second_distance[j]
        for t in range(size):
            for c in range(np.uintp(s.starts[t]), np.uintp(s.stops[t])):
                distance = np.float64(row[c])
                correction[c] += min(max(distance, near) - second, 0.0)
        j = s.next[j]
    best, best_candidate = 1.0, np.int64(_NONE)
    for t in range(size):
        for c in range(np.uintp(s.starts[t]), np.uintp(s.stops[t])):
            # Where there is no correction the gain may change unseen; _lowest_gain covers those.
            if correction[c] < 0.0 and gain[c] + correction[c] <= best:
                value = gain[c] + correction[c]
                if value < best or _before(space, np.int64(c), best_candidate):
                    best, best_candidate = value, np.int64(c)
    s.removal[medoid] = removal
    s.reach[medoid] = reach
    s.best[medoid] = best
    s.best_candidate[medoid] = best_candidate


@kernel
def _lowest_gain(space, s):
    """Return the lowest gain and the first point, medoids left out, that has it."""
    lowest = 1.0
    for first in range(0, s.gain.shape[0], _BLOCK):
        of_block = 1.0
        for lane in range(_BLOCK):
            of_block = min(of_block, s.gain[np.uintp(first + lane)])
        lowest = min(lowest, of_block)
    candidate = np.int64(_NONE)
    for c in range(s.gain.shape[0]):
        if s.gain[c] == lowest and s.place[c] == _NONE and _before(space, c, candidate):
            candidate = np.int64(c)
    return lowest, candidate


@kernel
def _descend(space, s, k):
    """Do the steepest swap until none lowers the loss."""
    while True:
        for t in range(k):
            medoid = s.medoids[t]
            if s.touched[medoid]:
                s.touched[medoid] = 0
                _evaluate(space, s, medoid)
        lowest, lowest_candidate = _lowest_gain(space, s)
        change, removed = 0.0, np.int64(_NONE)
        for t in range(k):
            medoid = s.medoids[t]
            delta = s.removal[medoid] + min(s.best[medoid], lowest)
            if delta < change or (
                delta == change and delta < 0.0 and _before(space, medoid, removed)
            ):
                change, removed = delta, medoid
        if removed == _NONE:
            return
        added = s.best_candidate[removed]
        if s.best[removed] > lowest:
            added = lowest_candidate
        elif s.best[removed] == lowest and _before(space, lowest_candidate, added):
            added = lowest_candidate
        _add(space, s, k, added)
        _remove(space, s, k, removed)


@kernel
def _silhouettes(near, second, distance_sum, size, k):
    """Return the mean simplified silhouette in both definitions.

    Args: ``near``, ``second``, ``distance_sum`` ``[N]`` float64 distances to the nearest and the
    second nearest medoid and to all of them, ``size [N]`` int64 of each point's cluster.
    """
    n = near.shape[0]
    others = 1.0 / (k - 1)
    zero = float_bits(_ROUND)
    mean_sum, nearest_sum, counted = np.int64(0), np.int64(0), np.int64(0)
    for j in range(n):
        a = near[j]
        b = (distance_sum[j] - a) * others
        mean = (b - a) / max(max(a, b), 1.0) if a > 0.0 else 0.0
        counted += a > 0.0
        mean_sum += float_bits(mean * _SILHOUETTE_UNIT + _ROUND) - zero
        b = second[j]
        nearest = (b - a) / max(b, 1.0) if size[j] > 1 else 0.0
        nearest_sum += float_bits(nearest * _SILHOUETTE_UNIT + _ROUND) - zero
    mean = np.float64(mean_sum) / _SILHOUETTE_UNIT / counted if counted else 1.0
    return mean, np.float64(nearest_sum) / _SILHOUETTE_UNIT / n


@kernel
def _record(s, n, k, loss, mss_mean, mss_nearest, is_medoid):
    """Note down the clustering if it beats the one noted for k; return whether it is no worse."""
    total = 0.0
    for j in range(n):
        total += s.near_distance[j]
    if total >= loss[k - 2]:
        return total == loss[k - 2]
    loss[k - 2] = total
    mss_mean[k - 2], mss_nearest[k - 2] = _silhouettes(
        s.near_distance[:n], s.second_distance[:n], s.distance_sum[:n], s.size[s.near[:n]], k
    )
    is_medoid[k - 2] = 0
    for t in range(k):
        is_medoid[k - 2, s.medoids[t]] = 1
    return True


@kernel
def _clear(space, s):
    """Set up the state without medoids."""
    n = space.distances.shape[0]
    s.near[:] = _NONE
    s.second[:] = _NONE
    s.near_distance[:] = _FAR
    s.second_distance[:] = _FAR
    s.distance_sum[:] = 0.0
    s.gain[:] = 0.0
    s.place[:n] = _NONE
    s.place[n:] = 0  # padding never becomes a medoid
    s.touched[:] = 0


@kernel
def _build(space, s, first, last):
    """Go from ``first`` to ``last`` medoids by the best additions: PAM's BUILD."""
    for k in range(first, last):
        _, added = _lowest_gain(space, s)
        _add(space, s, k, added)


@kernel
def _load(space, s, is_medoid):
    """Set up the state with the medoids flagged in ``is_medoid [N]``."""
    n = space.distances.shape[0]
    _clear(space, s)
    k = 0
    for point in range(n):
        if is_medoid[point]:
            s.medoids[k] = point
            s.place[point] = k
            s.head[point] = _NONE
            s.size[point] = 0
            s.touched[point] = 1
            row = space.distances[point]
            for j in range(n):
                s.distance_sum[j] += np.float64(row[j])
            k += 1
    for j in range(n):
        near, s.near_distance[j] = _nearest(space, s, k, j, _NONE)
        s.near[j] = near
        s.second[j], s.second_distance[j] = _nearest(space, s, k, j, near)
        _link(s, j, near)
    for t in range(k):
        radius = 0.0
        j = s.head[s.medoids[t]]
        while j != _NONE:
            radius = max(radius, 2.0 * s.near_distance[j])
            j = s.next[j]
        size = _ball(space, s, s.medoids[t], radius + _SLACK)
        j = s.head[s.medoids[t]]
        while j != _NONE:
            _change_gain(space, s, size, j, 0.0, s.near_distance[j])
            j = s.next[j]


@kernel
def _remove_cheapest(space, s, k):
    """Take out the one of k + 1 medoids whose points lose least by it, leaving k."""
    cheapest, removed = np.inf, np.int64(_NONE)
    for t in range(k + 1):
        medoid = s.medoids[t]
        removal = 0.0
        j = s.head[medoid]
        while j != _NONE:
            removal += s.second_distance[j] - s.near_distance[j]
            j = s.next[j]
        if removal < cheapest or (removal == cheapest and _before(space, medoid, removed)):
            cheapest, removed = removal, medoid
    _remove(space, s, k, removed)


@kernel
def _ascend(space, s, first, last, loss, mss_mean, mss_nearest, is_medoid):
    """Cluster for k = first..last-1, from the first ``first`` medoids of BUILD."""
    for k in range(first, last):
        if k > first:
            _build(space, s, k - 1, k)
        _descend(space, s, k)
        _record(s, space.distances.shape[0], k, loss, mss_mean, mss_nearest, is_medoid)


@kernel
def _revise(space, s, start, k, stop, step, loss, mss_mean, mss_nearest, is_medoid):
    """Go from the medoids ``start`` of k up or down to ``stop``, noting what lowers the loss."""
    n = space.distances.shape[0]
    _load(space, s, start)
    while k != stop:
        k += step
        if step > 0:
            _build(space, s, k - 1, k)
        else:
            _remove_cheapest(space, s, k)
        _descend(space, s, k)
        no_worse = _record(s, n, k, loss, mss_mean, mss_nearest, is_medoid)
        if not no_worse and k < _FEW_CLUSTERS:
            _load(space, s, is_medoid[k - 2])  # go on from the best


def _view(state: NDArray[np.float64]) -> _State:
    """Name the rows of ``state [fields, M]``, the later ones as integers."""
    return _State(*state[:_N_FLOATS], *state[_N_FLOATS:].view(np.int64))


def segments(n_points: int, first_length: int) -> list[tuple[int, int]]:
    """Return ranges ``(first, last)`` of k that cover 2..n_points-1, each done in a chain.

    They double in length, as the work for one k falls about as 1 / k, up to a limit.
    """
    bounds = [2]
    length = first_length
    while bounds[-1] < n_points:
        bounds.append(min(bounds[-1] + length, n_points))
        length = min(bounds[-1], _LONGEST_SEGMENT)
    return list(pairwise(bounds))


def spatial_order(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return an order ``[N]`` in which every block of points lies close together.

    A k-d tree: halves by x, quarters by y, and so on down to single blocks; equal coordinates keep
    their order.
    """
    n = len(points)
    n_blocks = -(-n // _BLOCK)
    order = np.arange(n)
    for level in range((n_blocks - 1).bit_length()):
        node = (np.arange(n) // _BLOCK * 2**level) // n_blocks
        order = order[np.lexsort((points[order, level % 2], node))]
    return order


def fixed_point(points: NDArray[np.float64]) -> tuple[NDArray[np.int32], float]:
    """Return distances ``[N, M]`` as integers, M = N in whole blocks, and the unit they count."""
    n = len(points)
    diagonal = math.hypot(*np.ptp(points, axis=0))
    exponent = math.frexp(diagonal)[1] if diagonal > 0 else 0
    unit = math.ldexp(1.0, exponent - _DISTANCE_BITS)
    distances = np.empty((n, -(-n // _BLOCK) * _BLOCK), np.int32)
    in_threads(
        lambda first, last: _fill_distances(points, 1.0 / unit, first, last, distances),
        n_items=n,
        work=distances.size,
    )
    return distances, unit


def kmedoids_sweep(points: Tensor) -> Sweep:
    values = points.double().numpy()
    n = len(values)
    order = spatial_order(values)
    distances, unit = fixed_point(values[order])
    n_padded = distances.shape[1]
    n_blocks = n_padded // _BLOCK
    numbers = np.append(order, np.arange(n, n_padded))
    space = _Space(distances, np.empty(n_blocks, np.int64), np.empty(n_blocks), numbers)
    _find_pivots(*space)
    loss, mss_mean, mss_nearest = np.full((3, n - 2), np.inf)
    is_medoid = np.zeros((n - 2, n), np.uint8)
    totals = distances[:, :n].sum(1, dtype=np.int64)
    first_medoid = int(np.lexsort((order, totals))[0])

    state = np.empty((len(_State._fields), n_padded))

    notes = (loss, mss_mean, mss_nearest, is_medoid)

    # BUILD is nested: one run of it passes by the start of every segment.
    _clear(space, _view(state))
    _add(space, _view(state), 0, first_medoid)
    built = 1
    with Tasks(n_threads() if n >= _MIN_PARALLEL else 1) as tasks:
        for first, last in segments(n, 2):
            _build(space, _view(state), built, first)
            built = first
            tasks.add(_ascend, space, _view(state.copy()), first, last, *notes)
    for way in range(next((ways for limit, ways in _WAYS if n <= limit), 1)):
        down = way % 2 == 0
        # Shifted against the segments before, so that what is good gets across their bounds; each
        # starts from what was noted before any of them began.
        before = is_medoid.copy()
        with Tasks(n_threads() if n >= _MIN_PARALLEL else 1) as tasks:
            for first, last in segments(n, 4 if down else 2):
                k, stop = (min(last, n - 1), first) if down else (max(first - 1, 2), last - 1)
                own, step = _view(np.empty_like(state)), -1 if down else 1
                tasks.add(_revise, space, own, before[k - 2], k, stop, step, *notes)
    by_number = np.empty_like(is_medoid)
    by_number[:, order] = is_medoid
    return Sweep(
        torch.from_numpy(loss * unit),
        torch.from_numpy(mss_mean),
        torch.from_numpy(mss_nearest),
        torch.from_numpy(np.packbits(by_number, axis=1, bitorder="little")),
    )


def simplified_silhouette(points: Tensor, medoids: Tensor) -> tuple[float, float]:
    distances, _ = fixed_point(points.double().numpy())
    to_medoids = distances[:, np.sort(medoids.numpy())].astype(np.float64)
    cluster = to_medoids.argmin(1)
    near, second = np.partition(to_medoids, 1, axis=1)[:, :2].T
    size = np.bincount(cluster)[cluster]
    mean, nearest = _silhouettes(
        near.copy(), second.copy(), to_medoids.sum(1), size, to_medoids.shape[1]
    )
    return float(mean), float(nearest)
