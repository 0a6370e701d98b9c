"""One step of pruning: gather, select, remove and repair, on a network as it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..budget import Budget
from ..errors import InputError
from ..layers import select_layers
from ..model_budget import equalized, require_in_reach, share_out, smallest
from ..moments import ClassMoments
from ..progress import Progress, part
from ..scalars import real_number
from ..selection import (
    Candidate,
    ChannelSelection,
    SelectionConfig,
    SomeWeights,
    own_budget,
)
from ..weights import LayerWeights
from .evidence import Evidence, observe
from .graph import ChannelGraph, ChannelGroup, Cost
from .groups import counts_to_stays, weights_of
from .repair import RepairMethod, repair
from .sampling import Calibration

# Takes channels out of the network that a graph is of, in place, as `remove_channels` does.
Shrink = Callable[[nn.Module, ChannelGraph, NDArray[np.bool_]], None]

# Goes on from a repaired network, in place, what that puts out and what its original does.
Finish = Callable[[nn.Module, Any, Any], None]

_NEED_IMAGES = ("std", "reconstruct")
# Damages of many groups add up only roughly. Their powers tell few groups that lose much (a small
# power) from many that lose little, and which does less harm is tried out.
_CONCENTRATIONS = (1.0, 0.7, 0.5)


@dataclass(frozen=True)
class Targets:
    """What a pruned model may cost, in convolutions, as shares of the original.

    Attributes:
        flops: Share of the floating point operations, in (0, 1].
        params: Share of the parameters.
    """

    flops: float | None = None
    params: float | None = None

    def __post_init__(self) -> None:
        for name, share in self.as_dict().items():
            share = real_number(share, f"target_{name}")
            if not 0.0 < share <= 1.0:
                raise InputError(f"target_{name} must be above 0 and at most 1, got {share:g}")

    def as_dict(self) -> dict[str, float]:
        """Return the targets there are, by name."""
        shares = {"flops": self.flops, "params": self.params}
        return {name: share for name, share in shares.items() if share is not None}

    def after(self, share_of_way: float) -> Targets:
        """Return where to be on the way there; every step takes away the same share."""
        return Targets(**{name: s**share_of_way for name, s in self.as_dict().items()})

    def excess(self, cost: Cost, original: Cost) -> float:
        """Return how many times its target a network costs, at the target that it misses most."""
        ratios = {
            "flops": cost.flops / original.flops,
            "params": cost.parameters / original.parameters,
        }
        return max((ratios[name] / share for name, share in self.as_dict().items()), default=0.0)

    def __str__(self) -> str:
        return " and ".join(f"target_{name} {share:.3g}" for name, share in self.as_dict().items())


def require_reach(
    graph: ChannelGraph,
    groups: Sequence[ChannelGroup],
    targets: Targets,
    original: Cost,
    config: SelectionConfig,
) -> None:
    """Raise ``InputError`` if the groups at their smallest cost more than the targets allow."""
    counts = {
        group.name: smallest(group.n_channels, config.min_channels, config.round_to)
        for group in groups
    }
    least = equalized(counts, graph.twins)
    cost = graph.cost(counts_to_stays(graph, least))
    require_in_reach(targets.excess(cost, original), str(targets))


def require_gamma(
    graph: ChannelGraph, groups: Sequence[ChannelGroup], config: SelectionConfig
) -> None:
    """Raise ``InputError`` if channels compete by ``"gamma"`` and a layer of them has none."""
    if "gamma" not in config.weight_kinds:
        return
    for group, members in weights_of(graph, groups, {}).items():
        for layer, weights in zip(graph[group].members, members, strict=True):
            if weights.gamma is None:
                raise InputError(
                    f"'gamma', the criterion or weight, is not there for {layer}, which has no "
                    "batch normalization of its own: protect it, or take another one"
                )


def needs_images(config: SelectionConfig) -> bool:
    """Return whether the weights that channels compete by come from feature maps."""
    return not set(_NEED_IMAGES).isdisjoint(config.weight_kinds)


def needs_damage(config: SelectionConfig, targets: Targets) -> bool:
    """Return whether damage to the predictions decides how many channels are kept."""
    return config.allocation == "damage" and bool(targets.as_dict())


def select_groups(
    graph: ChannelGraph,
    groups: Sequence[ChannelGroup],
    moments: Mapping[str, Sequence[ClassMoments]],
    *,
    config: SelectionConfig,
    targets: Targets,
    original: Cost,
    evidence: Evidence,
    devices: Sequence[torch.device],
    weights: Mapping[str, SomeWeights] | None = None,
    progress: Progress | None = None,
) -> dict[str, ChannelSelection]:
    """Select the channels that groups keep.

    Args:
        graph: Of the network.
        groups: Those that may lose channels.
        moments: Class moments of each group's channels, wherever they were looked at.
        config: How; its budget does not count where there are targets.
        targets: What the network may cost.
        original: What ``targets`` are shares of.
        evidence: What images say, if `needs_images` or `needs_damage`.
        devices: Where to select; the groups are spread over them, the largest first.
        weights: By group, other weights than those that ``config`` names.
        progress: Called with (what, done, in all).
    """

    def cost(counts: Mapping[str, int]) -> float:
        return targets.excess(graph.cost(counts_to_stays(graph, counts)), original)

    def share(candidates: Mapping[str, Candidate]) -> dict[str, Budget]:
        settle = partial(share_out, candidates, cost, str(targets), twins=graph.twins)
        if needs_damage(config, targets):
            return _least_harm(settle, evidence)
        if targets.as_dict():
            return settle()
        budgets = {name: own_budget(candidate) for name, candidate in candidates.items()}
        equal = equalized({name: budget.k for name, budget in budgets.items()}, graph.twins)
        return {
            name: budget if budget.k == equal[name] else Budget(equal[name], "as its twin")
            for name, budget in budgets.items()
        }

    by_size = sorted(moments, key=lambda name: -graph[name].n_channels)
    device_of = {name: devices[turn % len(devices)] for turn, name in enumerate(by_size)}
    on_device = {
        name: [part.to(device_of[name]) for part in parts] for name, parts in moments.items()
    }
    return select_layers(
        on_device,
        weights or weights_of(graph, groups, evidence.signals),
        config=config,
        share=share,
        progress=part(progress, "layers"),
    )


def observe_and_select(
    model: nn.Module,
    graph: ChannelGraph,
    groups: Sequence[ChannelGroup],
    moments: Mapping[str, Sequence[ClassMoments]],
    calibration: Calibration | None,
    *,
    config: SelectionConfig,
    targets: Targets,
    original: Cost,
    error_of: Callable[[Any, Any], float],
    devices: Sequence[torch.device],
    together: bool = False,
    progress: Progress | None = None,
) -> dict[str, ChannelSelection]:
    """Look at the network on samples, if the settings need that, and `select_groups`.

    Args:
        model: The network, in evaluation mode.
        graph: Of the network.
        groups: Those that may lose channels.
        moments: Class moments of each group's channels.
        calibration: The samples; ``None`` where they are not needed.
        config: How to select.
        targets: What the network may cost.
        original: What ``targets`` are shares of.
        error_of: Compares what the network puts out with what it put out before.
        devices: Where to select.
        together: Whether the moments are of other places than the layers that put channels out: the
            weights then stand for a group as a whole.
        progress: Called with (what, done, in all).
    """
    evidence = Evidence()
    if needs_images(config) or needs_damage(config, targets):
        assert calibration is not None
        evidence = observe(
            model,
            graph,
            groups,
            calibration,
            error_of=error_of if needs_damage(config, targets) else None,
            progress=progress,
        )
    weights: dict[str, SomeWeights] = dict(weights_of(graph, groups, evidence.signals))
    if together:
        weights = {name: LayerWeights.total(each) for name, each in weights.items()}  # type: ignore[arg-type]
    return select_groups(
        graph,
        groups,
        moments,
        config=config,
        targets=targets,
        original=original,
        evidence=evidence,
        devices=devices,
        weights=weights,
        progress=progress,
    )


def _least_harm(settle: Callable[..., dict[str, Budget]], evidence: Evidence) -> dict[str, Budget]:
    """Return the way to share the target that harms the predictions least, of those tried out."""
    assert evidence.sensitivity is not None
    ways = [
        settle(damage={name: harm**power for name, harm in evidence.damage.items()})
        for power in _CONCENTRATIONS
    ]
    harms = [
        evidence.sensitivity.error({name: budget.k for name, budget in way.items()}) for way in ways
    ]
    return ways[harms.index(min(harms))]


def remove_and_repair(
    model: nn.Module,
    graph: ChannelGraph,
    keep: Mapping[str, Sequence[int]],
    *,
    methods: Sequence[RepairMethod],
    calibration: Calibration | None,
    shrink: Shrink,
    finish: Finish | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """Return the network without the channels that groups do not keep, repaired.

    Args:
        model: The network, which is left as it is.
        graph: Of the network.
        keep: By group, the channels kept.
        methods: Of repair.
        calibration: Inputs, on the network's device, if there are ``methods``.
        shrink: Takes channels out of a network.
        finish: Called when it is repaired, if there are ``methods``.
        progress: Called with (modules done, modules in all).
    """
    stays = graph.kept(keep)
    pruned = deepcopy(model)
    shrink(pruned, graph.on(pruned), stays)
    if methods:
        assert calibration is not None
        before, after = repair(model, pruned, graph, stays, calibration, methods, progress=progress)
        if finish:
            with torch.no_grad():
                finish(pruned, after, before)
    return pruned


def full_cost(graph: ChannelGraph) -> Cost:
    """Return what the network costs with all of its channels."""
    everything: Any = np.ones(graph.n_channels, dtype=bool)
    return graph.cost(everything)
