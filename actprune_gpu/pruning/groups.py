"""Groups of channels, and what the selection needs to know of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays import sum_in_order
from ..errors import InputError
from ..models.hooks import resolve_layers
from ..moments import ClassMoments
from ..weights import LayerWeights
from .graph import ChannelGraph, ChannelGroup, Channels
from .grouping import norms
from .subset import InputMoments, Ranking, rank_by_reconstruction, views_of

# With fewer channels there is nothing to cluster.
MIN_CHANNELS = 3


def choose_groups(
    graph: ChannelGraph, layers: Sequence[str] = (), protect: Sequence[str] = ()
) -> list[ChannelGroup]:
    """Return the groups that may lose channels.

    Args:
        graph: Of the network.
        layers: Names or patterns (``"model.6.*"``) of layers: groups with one of them among their
            members are chosen, and their twins. All of them if left out.
        protect: Names or patterns of layers none of whose groups may lose channels.

    Raises:
        InputError: If a pattern matches nothing, or only layers that must stay.
    """
    for name, patterns in (("layers", layers), ("protect", protect)):
        if isinstance(patterns, str):
            raise InputError(f"{name} must be a list of names or patterns, got {patterns!r}")
    possible = [
        group for group in graph.groups if group.active and group.n_channels >= MIN_CHANNELS
    ]
    names = list(dict.fromkeys(layer for group in possible for layer in group.members))
    chosen = {group.name for group in possible}
    if layers:
        chosen = _matching(graph, possible, names, layers, "layers")
    if protect:
        chosen -= _matching(graph, possible, [*names, *graph.held], protect, "protect")
    if not chosen and protect:
        raise InputError("protect must leave something to prune, got all of it protected")
    if not chosen:
        reasons = "; ".join(f"{layer}: {why}" for layer, why in list(graph.held.items())[:3])
        raise InputError(
            f"model must have a layer with at least {MIN_CHANNELS} channels that can go, got none"
            + (f" ({reasons})" if reasons else "")
        )
    return [group for group in possible if group.name in chosen]


def _matching(
    graph: ChannelGraph,
    groups: Sequence[ChannelGroup],
    names: Sequence[str],
    patterns: Sequence[str],
    argument: str,
) -> set[str]:
    """Return the names of the groups with a member that matches, and of their twins."""
    for pattern in patterns:
        if pattern in graph.held and pattern not in names:
            raise InputError(
                f"{argument}: layer {pattern} must keep its channels: {graph.held[pattern]}"
            )
        narrow = [g for g in graph.groups if pattern in g.members and g not in groups]
        if narrow and pattern not in names:
            raise InputError(
                f"{argument} must have at least {MIN_CHANNELS} channels that predictions need, "
                f"got {pattern} with {narrow[0].n_channels}"
            )
    try:
        matched = set(resolve_layers(names, patterns))
    except InputError as error:
        raise InputError(f"{argument}: {error}") from None
    found = {group.name for group in groups if matched.intersection(group.members)}
    return set(graph.with_twins(found))


def moments_of(
    groups: Sequence[ChannelGroup], moments: Mapping[str, ClassMoments]
) -> dict[str, list[ClassMoments]]:
    """Return the moments of each group's channels in each of its members."""
    return {
        group.name: [
            moments[layer].select(torch.from_numpy(rows))
            for layer, channels in group.members.items()
            for rows in _columns(channels)
        ]
        for group in groups
    }


@dataclass(frozen=True, eq=False)
class Signal:
    """What feature maps say of a group's channels.

    Attributes:
        std: ``[C]`` float64, standard deviation of each channel, over its readers.
        ranking: The order in which the channels are worth keeping to the readers.
    """

    std: Tensor
    ranking: Ranking


def readers_of(graph: ChannelGraph, group: ChannelGroup) -> dict[str, Channels]:
    """Return, by name of the modules that read a group's channels, which of their inputs they are.

    Returns:
        ``[C]``, or ``[C, R]`` where each channel is read in R places, in running order. Modules
        that read some channels more often than others are left out.
    """
    index = {channel: number for number, channel in enumerate(group.channels.tolist())}
    found: dict[str, Channels] = {}
    for use in graph.uses.values():
        if not use.mixes or not use.positions:
            continue
        at = [(index[c], place) for place, c in enumerate(use.inputs.tolist()) if c in index]
        if len(at) and len(at) % len(index) == 0:
            pairs = np.array(sorted(at), dtype=np.int64)
            if (np.bincount(pairs[:, 0], minlength=len(index)) * len(index) == len(at)).all():
                rows = pairs[:, 1].reshape(len(index), -1)
                found[use.name] = rows[:, 0] if rows.shape[1] == 1 else rows
    return found


def _columns(channels: Channels) -> list[Channels]:
    """Return ``[C]`` for each of the R places that every channel has in ``[C]`` or ``[C, R]``."""
    return list(channels.reshape(len(channels), -1).T.copy())


def _sum(weights: Tensor, channels: Channels) -> Tensor:
    return sum_in_order([weights[rows] for rows in _columns(channels)])


def signals_of(
    graph: ChannelGraph, groups: Sequence[ChannelGroup], moments: Mapping[str, InputMoments]
) -> dict[str, Signal]:
    """Return what the moments of the readers' inputs say of the channels of each group."""
    found = {}
    for group in groups:
        views = views_of(graph, group, moments)
        std = torch.stack([view.covariance.diagonal() for view in views]).mean(0).sqrt()
        found[group.name] = Signal(std, rank_by_reconstruction(views))
    return found


def weights_of(
    graph: ChannelGraph, groups: Sequence[ChannelGroup], signals: Mapping[str, Signal]
) -> dict[str, list[LayerWeights]]:
    """Return the weights of each group's channels in each of its members.

    Those that feature maps are needed for, ``std`` and ``reconstruct``, stand at the first member,
    for the whole group.

    Args:
        graph: The network's channels.
        groups: Some of its groups.
        signals: By group; where there is none, ``std`` and ``reconstruct`` are left out.
    """
    by_layer = _layer_weights(graph)
    found = {}
    for group in groups:
        members = [
            LayerWeights(*(None if part is None else _sum(part, at) for part in by_layer[layer]))
            for layer, at in group.members.items()
        ]
        if group.name in signals:
            signal = signals[group.name]
            std, lost = signal.std, torch.empty_like(signal.std)
            lost[signal.ranking.order] = signal.ranking.error[:-1]
            nothing = torch.zeros_like(std)
            members = [
                replace(
                    each,
                    std=nothing if number else std,
                    reconstruct=nothing if number else lost,
                )
                for number, each in enumerate(members)
            ]
        found[group.name] = members
    return found


def _layer_weights(graph: ChannelGraph) -> dict[str, tuple[Tensor, Tensor, Tensor | None]]:
    """Return, by layer, l1, l2 and gamma of its channels; branches that are summed are summed."""
    found: dict[str, tuple[Tensor, Tensor, Tensor | None]] = {}
    following = norms(graph)
    for use in graph.uses.values():
        if not use.is_convolution:
            continue
        module: Any = use.module
        filters = module.weight.detach().transpose(0, use.output_axis)
        norm: Any = graph.uses[following[use.name]].module if use.name in following else None
        own = LayerWeights.from_filters(filters, getattr(norm, "weight", None))
        assert own.l1 is not None
        assert own.l2 is not None
        l1, l2, gamma = own.l1, own.l2, own.gamma
        if use.layer in found:
            before = found[use.layer]
            l1, l2 = l1 + before[0], l2 + before[1]
            gamma = None if gamma is None or before[2] is None else gamma + before[2]
        found[use.layer] = (l1, l2, gamma)
    return found


def counts_to_stays(graph: ChannelGraph, counts: Mapping[str, int]) -> np.ndarray[Any, Any]:
    """Return ``[n_channels]`` for groups that keep so many channels, whichever they are."""
    stays = np.ones(graph.n_channels, dtype=bool)
    for name, count in counts.items():
        stays[graph[name].channels[count:]] = False
    return stays
