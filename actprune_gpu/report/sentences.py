"""Why a channel was kept or dropped, in one sentence.

The page makes the same sentences out of the same templates, so what it shows and what ``explain``
prints cannot differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..selection import SelectionConfig
from .evidence import GroupEvidence

# By a letter that stands for the case in the page's data.
TEMPLATES = {
    "a": "Channel {channel} of {layer} was dropped: it separates the same class pairs as channel "
    "{keeper} (same cluster, correlation {r}), whose weight is {compared}.",
    "m": "Channel {channel} of {layer} was dropped: it separates much the same class pairs as "
    "channel {keeper} (same cluster, correlation {r}), whose weight is {compared}.",
    "u": "Channel {channel} of {layer} was dropped: channel {keeper}, of the same cluster, speaks "
    "for it because its weight is {compared}; but what the two separate is not much alike "
    "(correlation {r}).",
    "n": "Channel {channel} of {layer} was dropped: it is in the same cluster as channel {keeper}, "
    "whose weight is {compared}.",
    "f": "Channel {channel} of {layer} was kept: of the {size} channels of its cluster none has a "
    "larger weight ({kind} {own}). It speaks for {others}.",
    "o": "Channel {channel} of {layer} was kept: it is alone in its cluster, no other channel "
    "speaks for it.",
    "h": "Channel {channel} of {layer} was kept: by {kind} ({own}) it is number {rank} of {n}, "
    "before all that were dropped.",
    "w": "Channel {channel} of {layer} was kept, as all {n} channels to choose from were.",
    "x": "Channel {channel} of {layer} was dropped: by {kind} ({own}) it is number {rank} of {n}, "
    "and {k} were kept.",
    "y": "Channel {channel} of {layer} was kept: by {kind} ({own}) it is number {rank} of {n}, and "
    "{k} were kept.",
    "l": "Channel {channel} of {layer} was dropped by lot: {k} of {n} were drawn to stay.",
    "s": "Channel {channel} of {layer} was kept by lot: {k} of {n} were drawn to stay.",
    "g": "Channel {channel} of {layer} was dropped in an earlier step; the plan says why of the "
    "last step only.",
}
LARGER = "larger ({kind} {other} against {own})"
EQUAL = "equal ({kind} {own}), and whose number is lower"

# What weights are, by their names in the settings.
KINDS = {
    "l1": "L1 norm",
    "l2": "L2 norm",
    "gamma": "BatchNorm scale",
    "activation": "mean activation",
    "std": "standard deviation",
    "reconstruct": "reconstruction",
}

ALIKE, MUCH_ALIKE = 0.9, 0.5  # correlations from which on the sentence says so
_MOST_NAMED = 8


def kind_text(config: SelectionConfig) -> str:
    """Return in words what channels competed by."""
    return " and ".join(KINDS[kind] for kind in config.weight_kinds) or "lot"


def gone_sentence(layer: str, channel: int) -> str:
    """Return the sentence on a channel that an earlier step has dropped."""
    return TEMPLATES["g"].format(channel=channel, layer=layer)


def hundredths(value: float) -> int | None:
    """Return a correlation as the sentences show it, in hundredths, towards zero."""
    return None if np.isnan(value) else int(value * 100)


def cases_of(evidence: GroupEvidence, config: SelectionConfig) -> list[str]:
    """Return for each channel the letter of its template."""
    if evidence.kept.all():
        return ["w"] * evidence.n_channels
    if evidence.keeper is None:
        kept, dropped = ("s", "l") if config.criterion == "random" else ("y", "x")
        return [kept if stays else dropped for stays in evidence.kept]
    group = evidence.group
    beyond_knee = config.beyond_knee == "weight" and len(group.keep) > (group.k_star or 0)
    first_dropped = evidence.rank[~evidence.kept].min() if beyond_knee else 0
    cases = []
    for channel, stays in enumerate(evidence.kept):
        r = np.nan if evidence.correlation is None else evidence.correlation[channel]
        if stays:
            alone = "h" if evidence.rank[channel] < first_dropped else "o"
            cases.append("f" if len(evidence.spoken_for(channel)) else alone)
        elif np.isnan(r):
            cases.append("n")
        else:
            cases.append("a" if r >= ALIKE else "m" if r >= MUCH_ALIKE else "u")
    return cases


def sentence(
    evidence: GroupEvidence, channel: int, config: SelectionConfig, layer: str | None = None
) -> str:
    """Return why a channel was kept or dropped.

    Args:
        evidence: Of its group.
        channel: Its place among the group's candidates.
        config: Of the selection.
        layer: In which layer's numbers to speak; the group's first if left out.
    """
    group = evidence.group
    layer = layer or evidence.layer
    numbers = np.array(group.members[layer])[group.candidates]
    kind = kind_text(config)
    own = weight_text(group.weights[channel])
    values = {
        "channel": numbers[channel],
        "layer": layer,
        "kind": kind,
        "own": own,
        "rank": evidence.rank[channel],
        "n": evidence.n_channels,
        "k": int(evidence.kept.sum()),
    }
    if evidence.keeper is not None:
        keeper = evidence.keeper[channel]
        others = evidence.spoken_for(channel)
        tie = group.weights[keeper] == group.weights[channel]
        values |= {
            "keeper": numbers[keeper],
            "compared": (EQUAL if tie else LARGER).format(
                kind=kind, own=own, other=weight_text(group.weights[keeper])
            ),
            "size": len(others) + 1,
            "others": listed(numbers[others].tolist()),
        }
        if evidence.correlation is not None:
            r = hundredths(evidence.correlation[channel])
            values["r"] = "unknown" if r is None else f"{r / 100:.2f}"
    return TEMPLATES[cases_of(evidence, config)[channel]].format(**values)


def weight_text(weight: float) -> str:
    """Return a weight as people read it."""
    return f"{weight:.3g}"


def listed(numbers: Sequence[int]) -> str:
    """Return channel numbers in words; of many, the first."""
    named = ", ".join(map(str, numbers[:_MOST_NAMED]))
    more = len(numbers) - _MOST_NAMED
    word = "channel" if len(numbers) == 1 else "channels"
    return f"{word} {named}" + (f" and {more} more" if more > 0 else "")
