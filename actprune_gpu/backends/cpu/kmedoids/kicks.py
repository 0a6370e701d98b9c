"""Small random disturbances, kept where the descent from them ends lower."""

from __future__ import annotations

import numpy as np

from ... import plane
from ..compile import device
from .search import descend
from .space import NONE
from .state import NEAR, PLACE, SIZE, add, loss_of, nearest, remove

n_kicks = device(plane.n_kicks)


@device
def draw(random, below):
    """Return the generator's next state, and an integer below ``below``: SplitMix64."""
    random += np.uint64(0x9E3779B97F4A7C15)
    z = random
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return random, np.int64(z % np.uint64(below))


@device
def copy(source, target):
    for row in range(np.uintp(source.shape[0])):
        for column in range(np.uintp(source.shape[1])):
            target[row, column] = source[row, column]


@device
def move(d, f, i, k, medoid, random):
    """Swap ``medoid`` for another point of its cluster."""
    if i[SIZE, medoid] <= 1:  # 0 where a duplicate of the medoid is one and has all points
        return random
    random, steps = draw(random, i[SIZE, medoid] - 1)
    point = 0
    while steps > 0 or point == medoid or i[NEAR, point] != medoid:
        steps -= point != medoid and i[NEAR, point] == medoid
        point += 1
    if i[PLACE, point] == NONE:  # a duplicate of the medoid can be one, too
        add(d, f, i, k, point)
        remove(d, f, i, k, medoid)
    return random


@device
def shake(d, f, i, k, spare_f, spare_i, random, kicks):
    """Move two neighbouring medoids, descend, and go back if that ended higher: ``kicks`` times."""
    n = d.shape[0]
    if kicks == 0:
        return random
    lowest = loss_of(f, n)
    copy(f, spare_f)
    copy(i, spare_i)
    for kick in range(kicks):
        random, point = draw(random, n)  # of a medoid's points: a medoid alone cannot move
        medoid = i[NEAR, point]
        neighbour, _ = nearest(d, f, i, k, medoid, medoid)
        for moved in (medoid, neighbour):  # one call: each one compiled takes its time
            random = move(d, f, i, k, moved, random)
        descend(d, f, i, k)
        loss = loss_of(f, n)
        if loss > lowest:
            copy(spare_f, f)
            copy(spare_i, i)
        elif kick < kicks - 1:
            lowest = loss
            copy(f, spare_f)
            copy(i, spare_i)
    return random
