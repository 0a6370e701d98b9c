"""From the trace of a network to groups of channels that one selection decides on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import nn

from .graph import ChannelGraph, ChannelGroup, Channels, Heads, Use
from .kinds import is_normalization

# Who writes a channel, and which parts of which splits it is in.
_Key = tuple[tuple[str, ...], tuple[tuple[int, int], ...]]


@dataclass(eq=False)
class Run:
    """The channels that a module has read and written, and how often it ran."""

    inputs: Channels
    outputs: Channels
    times: int = 1


@dataclass(eq=False)
class Trace:
    """What following the channels through a network has found, in the tracer's numbers.

    Attributes:
        runs: What each module has read and written.
        same_as: ``[N]``, for each number the one that stands for it.
        splits: The parts of every split.
        views: Where channels were laid out along several axes: the module at work, and how they
            lie.
        held: Numbers that must stay, and why.
        normalized: For convolutions whose outputs nothing but one batch normalization reads, that.
    """

    runs: Mapping[str, Run]
    same_as: Channels
    splits: list[list[Channels]]
    views: list[tuple[str, Channels]]
    held: dict[int, str]
    normalized: Mapping[str, str]


def assemble(
    trace: Trace,
    modules: Mapping[str, nn.Module],
    positions: Mapping[str, int],
    layer_of: Callable[[str], str],
    *,
    other_parameters: int,
    other_flops: int,
) -> ChannelGraph:
    """Number the channels anew, one number for those that are the same, and group them.

    Args:
        trace: Of the network.
        modules: Its modules by name.
        positions: How often each is applied.
        layer_of: The block that a module is part of.
        other_parameters: Parameters of modules that did not run.
        other_flops: Operations with weights of no module that was followed.
    """
    runs, splits, held = trace.runs, trace.splits, trace.held
    for parts in splits:  # unequal parts are cut at fixed places
        if len({len(part) for part in parts}) > 1:
            for number in np.concatenate(parts).tolist():
                held.setdefault(number, "a split takes a fixed number of them")
    roots, numbers = np.unique(trace.same_as, return_inverse=True)
    reasons: dict[int, str] = {}
    for number, reason in held.items():
        reasons.setdefault(int(numbers[number]), reason)
    heads: dict[tuple[str, bytes], Heads] = {}
    for where, laid_out in trace.views:
        units = _units(numbers[laid_out])
        if units is not None:
            heads[where, units.tobytes()] = Heads(where, modules[where], units)
            continue
        for number in numbers[laid_out].flatten().tolist():
            reasons.setdefault(number, f"{where or 'the network'} lays them out along several axes")
    uses = {
        name: Use(
            name,
            layer_of(name),
            modules[name],
            numbers[run.inputs],
            numbers[run.outputs],
            positions.get(name, 0),
            run.times,
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
        uses,
        tuple(groups.values()),
        tuple(sorted(named)),
        held_layers,
        other_parameters,
        other_flops,
        tuple(heads.values()),
        trace.normalized,
    )


def _units(laid_out: Channels) -> Channels | None:
    """Return what channels differ in along the only axis along which they do; else nothing."""
    units = laid_out
    for axis in range(units.ndim):
        first = units.take([0], axis)
        if (units == first).all():
            units = first
    return units.flatten() if sum(size > 1 for size in units.shape) == 1 else None


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
        if all(np.array_equal(part, parts[0]) for part in parts):
            continue  # what goes, goes from all parts alike
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
            rows = at[np.argsort(at[:, 1], kind="stable"), 0].reshape(len(channels), -1)
            members.setdefault(use.layer, rows[:, 0] if rows.shape[1] == 1 else rows)
    writers = [use for use in uses.values() if use.mixes and len(_places(use.outputs, index))]
    first = writers[0]
    numbers = members[first.layer]
    whole = numbers.size == len(first.outputs)
    name = first.layer if whole else f"{first.layer}[{numbers.min()}:{numbers.max() + 1}]"
    return ChannelGroup(name, channels, members, any(use.positions for use in writers))


def _places(numbers: Channels, index: Mapping[int, int]) -> NDArray[np.int64]:
    """Return ``[M, 2]``, places in ``numbers`` and, of the channels there, the index."""
    at = [
        (place, index[number]) for place, number in enumerate(numbers.tolist()) if number in index
    ]
    return np.array(at, dtype=np.int64).reshape(-1, 2)


def norms(graph: ChannelGraph) -> dict[str, str]:
    """Return, for convolutions, the batch normalization of their channels that runs next."""
    uses = list(graph.uses.values())
    return {
        use.name: after.name
        for use, after in pairwise(uses)
        if use.is_convolution
        and is_normalization(after.module)
        and np.array_equal(use.outputs, after.outputs)
    }
