"""Step 8: the pruning ratio that was asked for.

The sweep holds a clustering for every k, so a budget moves k and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import InputError
from .scalars import whole_number

KeepBounds = tuple[float, float]


@dataclass(frozen=True)
class Budget:
    """A number of channels to keep and which rule set it.

    Attributes:
        k: The number.
        reason: ``"knee"``, or the rules that moved it.
    """

    k: int
    reason: str


def apply_budget(
    k_star: int,
    n_channels: int,
    *,
    budget: KeepBounds | None = (0.25, 0.5),
    round_to: int = 1,
    min_channels: int = 2,
) -> Budget:
    """Return how many channels to keep: k_star clipped to the bounds and rounded.

    k = clip(k_star, ceil(low * C), floor(high * C)), but at least ``min_channels``; then the
    nearest multiple of ``round_to`` inside these bounds (the smaller of two equally near). Where
    there is none, the next multiple up is taken if the layer has as many channels, else all are
    kept: an aligned layer matters more than a bound missed by less than ``round_to``.

    Args:
        k_star: The knee.
        n_channels: C.
        budget: Smallest and largest share of the channels to keep, or ``None`` for no bounds.
        round_to: Hardware likes multiples of 8 or 16.
        min_channels: No layer keeps fewer, unless it has fewer.

    Raises:
        InputError: If an argument does not fit.
    """
    require_budget(budget)
    n_channels = whole_number(n_channels, "n_channels")
    k_star = whole_number(k_star, "k_star", 1, n_channels)
    round_to = whole_number(round_to, "round_to")
    min_channels = whole_number(min_channels, "min_channels")
    low_share, high_share = budget if budget is not None else (0.0, 1.0)
    # 0.29 * 100 is 28.999...: a product this close to an integer was meant to be one.
    low = math.ceil(low_share * n_channels - 1e-9)
    high = math.floor(high_share * n_channels + 1e-9)
    reasons = []
    k = min(max(k_star, low), max(high, low))
    if k != k_star:
        rule, bound = ("at least", low_share) if k > k_star else ("at most", high_share)
        reasons.append(f"budget: {rule} {bound:g} of {n_channels}")
    smallest = min(min_channels, n_channels)
    if k < smallest:
        k = smallest
        reasons.append(f"min_channels {min_channels}")
    low, high = max(low, smallest), max(high, low, smallest)
    if k % round_to:
        below, above = k // round_to * round_to, -(-k // round_to) * round_to
        inside = [m for m in (below, above) if low <= m <= high]
        rounded = min(inside, key=lambda m: (abs(m - k), m)) if inside else min(above, n_channels)
        k = rounded
        reasons.append(f"round_to {round_to}")
    return Budget(k, "; ".join(reasons) or "knee")


def require_budget(budget: KeepBounds | None) -> None:
    """Raise ``InputError`` unless ``budget`` is two ordered shares in (0, 1], or ``None``."""
    if budget is None:
        return
    try:
        low, high = (float(share) for share in budget)
    except (TypeError, ValueError):
        raise InputError(f"budget must be two shares (low, high), got {budget!r}") from None
    if not (0.0 <= low <= 1.0 and 0.0 < high <= 1.0):
        raise InputError(f"budget must lie inside 0..1 and end above 0, got {low:g}:{high:g}")
    if low > high:
        raise InputError(f"budget must not be crossed, got {low:g}:{high:g}")
