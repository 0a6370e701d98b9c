"""Why one channel was kept or dropped."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..pruning.folder import FolderLike, open_folder
from ..pruning.plan import GroupPlan, PruningPlan
from .evidence import GroupEvidence, evidence_of
from .sentences import gone_sentence, kind_text, sentence, weight_text
from .stability import Stability


@dataclass(frozen=True)
class Explanation:
    """Why a channel was kept or dropped.

    Attributes:
        sentence: The reason.
        figures: What is known of the channel, by name.
    """

    sentence: str
    figures: dict[str, str]

    def __str__(self) -> str:
        width = max(map(len, self.figures), default=0) + 2
        rows = [f"{name:{width}}{value}" for name, value in self.figures.items()]
        return "\n".join([self.sentence, *rows])


def explain(folder: FolderLike, layer: str, channel: int) -> Explanation:
    """Return why a channel was kept or dropped.

    Args:
        folder: Where the plan is, its path or what was read from it.
        layer: Name of one of the plan's layers.
        channel: Number of its output channel, in the network before pruning.

    Raises:
        InputError: If the plan has no such layer or channel.
    """
    folder = open_folder(folder)
    group, number = _find(folder.plan, layer, channel)
    if number not in group.candidates:
        return Explanation(gone_sentence(layer, channel), {"kept": _counts(group)})
    evidence = evidence_of(folder, group)
    at = group.candidates.index(number)
    config = folder.plan.config
    figures = {}
    if config.criterion != "random":
        figures[f"weight ({kind_text(config)})"] = (
            f"{weight_text(group.weights[at])}, number {evidence.rank[at]} of {evidence.n_channels}"
        )
    if evidence.keeper is not None:
        size = int((evidence.keeper == evidence.keeper[at]).sum())
        figures["cluster"] = f"{size} channel{'s' * (size > 1)}"
    figures |= _separability(evidence, at)
    figures["kept of the layer"] = _counts(group)
    if group.k_star is not None:
        figures["knee"] = f"{group.k_star} ({group.knee_reason})"
    figures["number set by"] = group.reason
    stability = Stability.load(folder)
    if stability and group.name in stability.groups:
        own = stability.groups[group.name]
        for name, repeats in (("other starts", own.starts), ("draws of images", own.images)):
            if repeats.jaccard:
                times = f"kept in {repeats.kept[at]} of {len(repeats.jaccard)}"
                figures[name] = f"{times}, the layer's mean Jaccard index is {repeats.mean:.2f}"
    others = [
        f"{name} channel {numbers[number]}"
        for name, numbers in group.numbers.items()
        if (name, numbers[number]) != (layer, channel)
    ]
    if others:
        figures["together with"] = ", ".join(others)
    if folder.notes:
        figures["note"] = "; ".join(folder.notes)
    return Explanation(sentence(evidence, at, config, layer), figures)


def _find(plan: PruningPlan, layer: str, channel: int) -> tuple[GroupPlan, int]:
    """Return the group that a channel is in, and its number there."""
    groups = [group for group in plan.groups if layer in group.members]
    if not groups:
        names = list(dict.fromkeys(name for group in plan.groups for name in group.members))
        near = difflib.get_close_matches(layer, names, n=3, cutoff=0.0)
        raise InputError(
            f"layer must be one that the plan selects from, got {layer!r}; "
            f"nearest: {', '.join(near)}"
        )
    for group in groups:
        if channel in group.numbers[layer]:
            return group, group.numbers[layer].index(channel)
    most = max(number for group in groups for number in group.numbers[layer])
    raise InputError(
        f"channel must be one of {layer} that the plan selects from, in 0..{most}, got {channel}"
    )


def _counts(group: GroupPlan) -> str:
    return f"{len(group.keep)} of {group.channels}"


def _separability(evidence: GroupEvidence, at: int) -> dict[str, str]:
    if evidence.matrix is None:
        return {}
    (values,) = evidence.matrix.rows(np.array([at]))
    best, worst = int(values.argmax()), int(values.argmin())
    return {
        "mean separability": f"{values.mean():.3f} of at most 2, over {len(values)} class pairs",
        "tells apart best": f"{evidence.matrix.name(best)}, {values[best]:.2f}",
        "tells apart worst": f"{evidence.matrix.name(worst)}, {values[worst]:.2f}",
    }
