"""Step 8 for a whole model: one scale for all layers, searched until a target is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .budget import Budget
from .errors import InputError
from .selection import Candidate

_STEPS = 60  # halvings of the interval in which the scale is searched
_LARGEST = 1e30  # scale that is tried
_NEAR = 0.99  # of the target, which is near enough
_ROUNDS = 3  # of prices, which depend on how many channels the neighbours keep

# What the model costs if layers keep so many channels, in units of what it may.
CostOf = Callable[[Mapping[str, int]], float]


def share_out(
    candidates: Mapping[str, Candidate],
    cost: CostOf,
    target: str,
    *,
    twins: Sequence[Sequence[str]] = (),
    damage: Mapping[str, NDArray[np.float64]] | None = None,
) -> dict[str, Budget]:
    """Return how many channels each layer keeps so that the model costs what it may.

    Without ``damage`` the layers stand to each other as `Candidate.proportion` says. With it every
    layer keeps the number of channels at which damage and price together are least, the price being
    what one channel more costs the model. One scale of all layers, or of all prices, is searched.
    It cannot meet the target exactly where a small step of it moves several layers, so the last
    step is taken layer by layer; where multiples of many channels leave more than a hundredth of
    the target, others go on, each time the one whose next multiple comes nearest to it.

    Args:
        candidates: The layers.
        cost: What the model costs if the layers keep so many channels, in units of what it may; it
            grows with each of them.
        target: What it may cost, in words, for the reason and for messages.
        twins: Layers that must keep equally many channels.
        damage: By layer, ``[C + 1]``, what harm it does to keep so many channels; the harms add up.

    Raises:
        InputError: If the target is out of reach.
    """
    counts = {name: candidate.n_channels for name, candidate in candidates.items()}
    for _ in range(_ROUNDS if damage else 1):
        wish = _by_damage(damage, _prices(counts, cost)) if damage else _by_proportion(candidates)
        counts = _search(candidates, cost, target, twins, wish)
    return {name: Budget(count, target) for name, count in counts.items()}


def _by_proportion(candidates: Mapping[str, Candidate]) -> Callable[[str, float], float]:
    return lambda name, scale: candidates[name].proportion(scale)


def _by_damage(
    damage: Mapping[str, Any], prices: Mapping[str, float]
) -> Callable[[str, float], float]:
    def wish(name: str, scale: float) -> float:
        if scale <= 0.0:
            return 0.0
        harm = damage[name]
        return float(np.argmin(harm + prices[name] / scale * np.arange(len(harm))))

    return wish


def _prices(counts: Mapping[str, int], cost: CostOf) -> dict[str, float]:
    """Return what one channel of each layer costs, a quarter of them taken away."""
    whole = cost(counts)
    prices = {}
    for name, count in counts.items():
        fewer = max(1, count // 4)
        prices[name] = (whole - cost({**counts, name: count - fewer})) / fewer
    return prices


def _search(
    candidates: Mapping[str, Candidate],
    cost: CostOf,
    target: str,
    twins: Sequence[Sequence[str]],
    wish: Callable[[str, float], float],
) -> dict[str, int]:
    """Search the scale of ``wish(layer, scale)``, which grows with it, until the target is met."""

    def counts(scale: float) -> dict[str, int]:
        wishes = {name: wish(name, scale) for name in candidates}
        return equalized({name: _fit(candidates[name], wishes[name]) for name in wishes}, twins)

    require_in_reach(cost(counts(0.0)), target)
    everything = {name: candidate.n_channels for name, candidate in candidates.items()}
    low, high = 0.0, 1.0
    # Channels that do no harm when they go are never kept, whatever the scale.
    while cost(counts(high)) <= 1.0 and counts(high) != everything and high < _LARGEST:
        high *= 2.0
    for _ in range(_STEPS):
        middle = (low + high) / 2.0
        if cost(counts(middle)) <= 1.0:
            low = middle
        else:
            high = middle
    found = _refine(counts(low), counts(high), cost, twins, candidates)
    # Below the target at any scale: what else could be kept does no good.
    return _fill(found, cost, twins, candidates) if cost(counts(high)) > 1.0 else found


def _fit(candidate: Candidate, wish: float) -> int:
    """Return the number of channels nearest to a wish that minimum and rounding allow, or all."""
    highest, step = candidate.n_channels, candidate.config.round_to
    if round(wish) >= highest:
        return highest
    nearest = round(min(max(round(wish), 0), highest) / step) * step
    return max(min(nearest, highest), smallest(highest, candidate.config.min_channels, step))


def require_in_reach(lowest: float, target: str) -> None:
    """Raise ``InputError`` if the smallest model costs more than it may, in units of that."""
    if lowest > 1.0:
        raise InputError(
            f"{target} is out of reach, the smallest model costs {lowest:.3f} times that: "
            "prune more layers, or lower min_channels or round_to"
        )


def smallest(n_channels: int, min_channels: int, round_to: int) -> int:
    """Return the fewest channels that minimum and rounding allow of so many."""
    lowest = min(min_channels, n_channels)
    return min(-(-lowest // round_to) * round_to, n_channels)


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
    cost: CostOf,
    twins: Sequence[Sequence[str]],
    candidates: Mapping[str, Candidate],
) -> dict[str, int]:
    """Go from ``low`` to ``high`` layer by layer, as far as the target allows."""
    counts = low
    for name, most in high.items():
        # From the most down: the first that the target allows is as far as this layer can go.
        for count in range(most, counts[name], -1):
            tried = equalized({**counts, name: count}, twins)
            if _fit(candidates[name], count) == count and cost(tried) <= 1.0:
                counts = tried
                break
    return counts


def _fill(
    counts: dict[str, int],
    cost: CostOf,
    twins: Sequence[Sequence[str]],
    candidates: Mapping[str, Candidate],
) -> dict[str, int]:
    """Let single layers keep the next count that fits, as long as the target is not near."""
    while cost(counts) < _NEAR:
        steps = [
            equalized({**counts, name: _following(candidate, counts[name])}, twins)
            for name, candidate in candidates.items()
        ]
        allowed = [step for step in steps if step != counts and cost(step) <= 1.0]
        if not allowed:
            break
        counts = max(allowed, key=cost)
    return counts


def _following(candidate: Candidate, count: int) -> int:
    """Return the next larger number of channels that rounding allows, or the same if none does."""
    larger = range(count + 1, candidate.n_channels + 1)
    return next((more for more in larger if _fit(candidate, more) == more), count)
