"""From the trace of a network to groups of channels that one selection decides on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import nn

from .graph import ChannelGraph, ChannelGroup, Channels, Use

# Who writes a channel, and which parts of which splits it is in.
_Key = tuple[tuple[str, ...], tuple[tuple[int, int], ...]]


@dataclass(eq=False)
class Run:
    """The channels that a module has read and written."""

    inputs: Channels
    outputs: Channels


def assemble(
    runs: Mapping[str, Run],
    modules: Mapping[str, nn.Module],
    positions: Mapping[str, int],
    layer_of: Callable[[str], str],
    *,
    same_as: Channels,
    splits: list[list[Channels]],
    held: dict[int, str],
    other_parameters: int,
) -> ChannelGraph:
    """Number the channels anew, one number for those that are the same, and group them.

    Args:
        runs: What each module has read and written, in the tracer's numbers.
        modules: The network's modules by name.
        positions: How often each is applied.
        layer_of: The block that a module is part of.
        same_as: ``[N]``, for each of the tracer's numbers the one that stands for it.
        splits: The parts of every split.
        held: Numbers that must stay, and why.
        other_parameters: Parameters of modules that are not in ``runs``.
    """
    for parts in splits:  # unequal parts are cut at fixed places
        if len({len(part) for part in parts}) > 1:
            for number in np.concatenate(parts).tolist():
                held.setdefault(number, "a split takes a fixed number of them")
    roots, numbers = np.unique(same_as, return_inverse=True)
    reasons: dict[int, str] = {}
    for number, reason in held.items():
        reasons.setdefault(int(numbers[number]), reason)
    uses = {
        name: Use(
            name,
            layer_of(name),
            modules[name],
            numbers[run.inputs],
            numbers[run.outputs],
            positions.get(name, 0),
        )
        for name, run in runs.items()
    }
    parted = [[numbers[part] for part in parts] for parts in splits]
    sets = _sets(uses, parted, len(roots))
    twins, stuck = _ties(sets, parted, reasons)
    groups = {
        key: _group(uses, np.array(channels)) for key, channels in sets.items() if key not in stuck
    }
    held_layers: dict[str, str] = {}
    for key, reason in stuck.items():
        held_layers.setdefault(uses[key[0][0]].layer, reason)
    named = {tuple(groups[key].name for key in keys) for keys in twins if keys[0] in groups}
    return ChannelGraph(
        uses, tuple(groups.values()), tuple(sorted(named)), held_layers, other_parameters
    )


def _sets(
    uses: Mapping[str, Use], splits: list[list[Channels]], n_channels: int
) -> dict[_Key, list[int]]:
    """Sort the channels by the modules that write them and the parts of splits they are in."""
    writers: list[list[str]] = [[] for _ in range(n_channels)]
    parts_of: list[list[tuple[int, int]]] = [[] for _ in range(n_channels)]
    for use in uses.values():
        if use.mixes:
            for channel in dict.fromkeys(use.outputs.tolist()):
                writers[channel].append(use.name)
    for number, parts in enumerate(splits):
        for index, part in enumerate(parts):
            for channel in dict.fromkeys(part.tolist()):
                parts_of[channel].append((number, index))
    sets: dict[_Key, dict[int, None]] = {}
    for use in uses.values():
        for channel in use.outputs.tolist() if use.mixes else ():
            key = (tuple(writers[channel]), tuple(parts_of[channel]))
            sets.setdefault(key, {})[channel] = None
    return {key: list(channels) for key, channels in sets.items()}


def _ties(
    sets: Mapping[_Key, list[int]], splits: list[list[Channels]], reasons: Mapping[int, str]
) -> tuple[list[list[_Key]], dict[_Key, str]]:
    """Return which sets must stay equally large, and which must stay as they are and why.

    Twins stand and fall together: what holds one part of a split holds the others.
    """
    where = {channel: key for key, channels in sets.items() for channel in channels}
    stuck: dict[_Key, str] = {}
    for key, channels in sets.items():
        reason = next((reasons[channel] for channel in channels if channel in reasons), None)
        if reason:
            stuck[key] = reason
    twins = []
    for parts in splits:
        tied = [
            list(dict.fromkeys(where[c] for c in part.tolist() if c in where)) for part in parts
        ]
        keys = [key for part in tied for key in part]
        one_each = all(len(part) == 1 for part in tied) and len(set(keys)) == len(keys)
        if one_each and len({len(sets[key]) for key in keys}) == 1:
            twins.append(keys)
        else:
            for key in keys:
                stuck.setdefault(key, "a split parts them unevenly")
    spreading = True
    while spreading:
        spreading = False
        for keys in twins:
            if any(key in stuck for key in keys):
                for key in keys:
                    if key not in stuck:
                        stuck[key] = "the other part of a split must stay"
                        spreading = True
    return twins, stuck


def _group(uses: Mapping[str, Use], channels: Channels) -> ChannelGroup:
    index = {channel: number for number, channel in enumerate(channels.tolist())}
    members: dict[str, Channels] = {}
    for use in uses.values():
        at = _places(use.outputs, index)
        if use.is_convolution and len(at):
            order = np.empty(len(channels), dtype=np.int64)
            order[at[:, 1]] = at[:, 0]
            members.setdefault(use.layer, order)
    writers = [use for use in uses.values() if use.mixes and len(_places(use.outputs, index))]
    first = writers[0]
    numbers = members[first.layer]
    whole = len(numbers) == len(first.outputs)
    name = first.layer if whole else f"{first.layer}[{numbers.min()}:{numbers.max() + 1}]"
    return ChannelGroup(name, channels, members, any(use.positions for use in writers))


def _places(numbers: Channels, index: Mapping[int, int]) -> NDArray[np.int64]:
    """Return ``[M, 2]``, places in ``numbers`` and, of the channels there, the index."""
    at = [
        (place, index[number]) for place, number in enumerate(numbers.tolist()) if number in index
    ]
    return np.array(at, dtype=np.int64).reshape(-1, 2)


def norms(graph: ChannelGraph) -> dict[str, str]:
    """Return, for convolutions, the batch normalization that directly follows."""
    uses = list(graph.uses.values())
    return {
        use.name: after.name
        for use, after in pairwise(uses)
        if use.is_convolution
        and not after.is_convolution
        and np.array_equal(use.outputs, after.outputs)
    }
