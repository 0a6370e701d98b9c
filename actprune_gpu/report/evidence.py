"""What a plan and its moments say of every channel of a group: who speaks for it, and how well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..backends import backend_of
from ..backends.protocol import ClassStatistics
from ..choice import by_weight
from ..errors import InputError
from ..moments import ClassMoments
from ..pruning.folder import PlanFolder
from ..pruning.plan import GroupPlan
from ..separability import class_statistics

_BATCH = 1 << 23  # distances held at a time


@dataclass(frozen=True, eq=False)
class PairMatrix:
    """How well a group's channels separate the classes, its members averaged.

    Attributes:
        classes: Names of the classes used.
        pairs: ``[P, 2]`` int64, classes ``i < j`` of each column.
        members: What the kernels need of each member.
    """

    classes: tuple[str, ...]
    pairs: NDArray[np.int64]
    members: tuple[ClassStatistics, ...]

    def rows(self, channels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the Jeffries-Matusita distances ``[n, P]`` float64 of some channels, in [0, 2]."""
        found: NDArray[np.float64] = np.mean(
            [_distances(member, channels) for member in self.members], axis=0
        )
        return found

    def name(self, pair: int) -> str:
        """Return the names of a pair's classes."""
        first, second = self.pairs[pair]
        return f"{self.classes[first]} | {self.classes[second]}"

    def batches(self) -> Iterator[NDArray[np.int64]]:
        """Yield the channels in parts whose rows fit into memory, however many pairs there are."""
        width = len(self.pairs) * len(self.members)
        size = max(1, _BATCH // max(1, width))
        channels = np.arange(len(self.members[0].mean))
        yield from (channels[start : start + size] for start in range(0, len(channels), size))


@dataclass(frozen=True, eq=False)
class GroupEvidence:
    """The facts about the C channels of a group that the last step selected from.

    Attributes:
        group: Of the plan.
        layer: The group's first layer, whose channel numbers people are told.
        numbers: ``[C]`` int64, the channels' numbers there.
        kept: ``[C]`` whether each is kept.
        rank: ``[C]`` int64, place by weight, from 1.
        keeper: ``[C]`` int64, the channel that is kept of its cluster; ``None`` without clusters.
        correlation: ``[C]`` float64, Pearson correlation of its separabilities with its keeper's,
            over all class pairs in all members of the group; NaN where that is not defined, and
            ``None`` without clusters or moments.
        matrix: What it separates; ``None`` without moments.
    """

    group: GroupPlan
    layer: str
    numbers: NDArray[np.int64]
    kept: NDArray[np.bool_]
    rank: NDArray[np.int64]
    keeper: NDArray[np.int64] | None
    correlation: NDArray[np.float64] | None
    matrix: PairMatrix | None

    @property
    def n_channels(self) -> int:
        """C, the number of channels."""
        return len(self.numbers)

    def spoken_for(self, channel: int) -> NDArray[np.int64]:
        """Return the other channels of a kept channel's cluster."""
        if self.keeper is None:
            return np.zeros(0, dtype=np.int64)
        return np.flatnonzero((self.keeper == channel) & ~self.kept)


def evidence_of(folder: PlanFolder, group: GroupPlan) -> GroupEvidence:
    """Gather the facts about a group of a folder's plan."""
    kept = np.isin(group.candidates, group.keep)
    order = by_weight(torch.tensor(group.weights, dtype=torch.float64)).numpy()
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    matrix: PairMatrix | None = None
    members: tuple[ClassStatistics, ...] = ()
    if folder.moments is not None and folder.has_moments(group):
        matrix, members = _separability(folder.moments_of(group, folder.moments))
    keeper = correlation = None
    if group.cluster_labels is not None:
        labels = np.array(group.cluster_labels)
        keeper = np.zeros_like(labels)
        for channel in np.flatnonzero(kept):
            keeper[labels == labels[channel]] = channel
        if matrix:
            parts = [
                _correlation(_joined(members, batch), _joined(members, keeper[batch]))
                for batch in matrix.batches()
            ]
            correlation = np.concatenate(parts)
    layer = next(iter(group.members))
    numbers = np.array(group.numbers[layer])[group.candidates]
    return GroupEvidence(group, layer, numbers, kept, rank, keeper, correlation, matrix)


def _separability(
    moments: Sequence[ClassMoments],
) -> tuple[PairMatrix | None, tuple[ClassStatistics, ...]]:
    """Return what a group's channels separate, and its members; nothing of a single class."""
    try:
        found = [class_statistics(member) for member in moments]
    except InputError:  # fewer than two classes
        return None, ()
    classes = found[0][1]
    pairs = np.stack(np.triu_indices(len(classes), 1), axis=1)
    alike = tuple(statistics for statistics, names, _ in found if names == classes)
    return PairMatrix(classes, pairs, alike), tuple(statistics for statistics, *_ in found)


def _joined(members: Sequence[ClassStatistics], channels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the distances of some channels, those of all members side by side."""
    return np.concatenate([_distances(member, channels) for member in members], axis=1)


def _distances(member: ClassStatistics, channels: NDArray[np.int64]) -> NDArray[np.float64]:
    index = torch.from_numpy(channels)
    some = ClassStatistics(*(part[index] for part in member))
    found: NDArray[np.float64] = (
        backend_of(some.mean).jeffries_matusita(some).double().cpu().numpy()
    )
    return found


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Pearson correlation of each row of ``a`` with that of ``b``, NaN if constant."""
    a, b = (rows - rows.mean(1, keepdims=True) for rows in (a, b))
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = np.where(scale > 0, (a * b).sum(1) / scale, np.nan)
    return found.clip(-1.0, 1.0)
