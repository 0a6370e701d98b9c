"""Step 8 for a whole model: one scale for all layers, searched until a target is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .budget import Budget
from .errors import InputError
from .selection import Candidate

_STEPS = 60  # halvings of the interval in which the scale is searched


def share_out(
    candidates: Mapping[str, Candidate],
    cost: Callable[[Mapping[str, int]], float],
    target: str,
    *,
    twins: Sequence[Sequence[str]] = (),
) -> dict[str, Budget]:
    """Return how many channels each layer keeps so that the model costs what it may.

    The layers stand to each other as `Candidate.proportion` says; one scale of all of them is
    searched. It cannot meet the target exactly where a small step of it moves several layers, so
    the last step is taken layer by layer.

    Args:
        candidates: The layers.
        cost: What the model costs if the layers keep so many channels, in units of what it may; it
            grows with each of them.
        target: What it may cost, in words, for the reason and for messages.
        twins: Layers that must keep equally many channels.

    Raises:
        InputError: If the target is out of reach.
    """
    lowest = cost(_counts(candidates, 0.0, twins))
    if lowest > 1.0:
        raise InputError(
            f"{target} is out of reach, the smallest model costs {lowest:.3f} times that: "
            "prune more layers, or lower min_channels or round_to"
        )
    low, high = 0.0, 1.0
    while cost(_counts(candidates, high, twins)) < 1.0:
        previous, high = high, 2.0 * high
        if _counts(candidates, high, twins) == _counts(candidates, previous, twins):
            break  # all channels are kept
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        if cost(_counts(candidates, middle, twins)) <= 1.0:
            low = middle
        else:
            high = middle
    below, above = _counts(candidates, low, twins), _counts(candidates, high, twins)
    counts = _refine(below, above, cost, twins)
    return {name: Budget(count, target) for name, count in counts.items()}


def _counts(
    candidates: Mapping[str, Candidate], scale: float, twins: Sequence[Sequence[str]]
) -> dict[str, int]:
    counts = {}
    for name, candidate in candidates.items():
        config, highest = candidate.config, candidate.n_channels
        lowest = min(config.min_channels, highest)
        count = min(max(round(candidate.proportion(scale)), lowest), highest)
        step = config.round_to
        nearest = max(round(count / step), -(-lowest // step)) * step
        counts[name] = min(nearest, highest)
    return equalized(counts, twins)


def equalized(counts: Mapping[str, int], twins: Sequence[Sequence[str]]) -> dict[str, int]:
    """Return the counts with those of twins raised to the largest among them."""
    counts = dict(counts)
    changed = True
    while changed:  # layers may have several twins
        changed = False
        for names in twins:
            present = [name for name in names if name in counts]
            most = max((counts[name] for name in present), default=0)
            for name in present:
                changed |= counts[name] != most
                counts[name] = most
    return counts


def _refine(
    low: dict[str, int],
    high: dict[str, int],
    cost: Callable[[Mapping[str, int]], float],
    twins: Sequence[Sequence[str]],
) -> dict[str, int]:
    """Go from ``low`` to ``high`` layer by layer, as long as the target allows."""
    counts = low
    for name, count in high.items():
        if count != low[name]:
            tried = equalized({**counts, name: count}, twins)
            if cost(tried) <= 1.0:
                counts = tried
    return counts
