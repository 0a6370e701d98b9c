"""Pruning of any network: a module and labelled batches in, a smaller module out."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from .batches import LabelOf, first_samples
from .distributed import Ranks
from .errors import InputError
from .gather import gather_moments
from .inputs import ModelInputs
from .models.fingerprint import fingerprint
from .models.modes import observed, undisturbed, unwrapped
from .moments import ClassMoments
from .progress import Progress, part
from .pruning.graph import ChannelGraph, ChannelGroup
from .pruning.groups import choose_groups, readers_of
from .pruning.numbers import tensors_in
from .pruning.plan import Costs, GroupPlan, Mode, PruningPlan, require_mode
from .pruning.rehearsal import confirm, rehearse
from .pruning.remove import remove_channels
from .pruning.repair import parse_repair
from .pruning.sampling import Calibration
from .pruning.step import (
    Targets,
    full_cost,
    needs_damage,
    needs_images,
    observe_and_select,
    remove_and_repair,
    require_gamma,
    require_reach,
)
from .pruning.trace import idle_modules, trace_channels
from .pruning.zero import expand_channels
from .scalars import whole_number
from .selection import SelectionConfig, settings_of
from .versions import versions

_EXAMPLES = 2  # samples that the network is traced with
_REPAIR_SAMPLES = 128
_RUIN = 1e12  # the error of outputs that are no longer finite
# Positions of a sample that tell what a group's channels do: those of a head or of a map flattened
# into a linear layer are many, and a few stand for all.
_MOST_PLACES = 64


@dataclass(frozen=True, eq=False)
class ModelPruneResult:
    """A pruned network and how it came about.

    Attributes:
        model: The pruned network, of the classes of the original, on its device and in its mode.
        plan: What was kept of which layers and why; `apply_plan` replays it.
        moments: Class moments that the selection was made from, by layer; empty for criteria that
            need none, and if a plan was replayed.
    """

    model: nn.Module
    plan: PruningPlan
    moments: Mapping[str, ClassMoments]


def prune_model(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    classes: Sequence[str] | int = (),
    label_of: LabelOf | None = None,
    layers: Sequence[str] = (),
    protect: Sequence[str] = (),
    config: SelectionConfig | None = None,
    target_flops: float | None = None,
    target_params: float | None = None,
    mode: Mode = "remove",
    repair: str = "reconstruct+bn",
    repair_samples: int = _REPAIR_SAMPLES,
    state_path: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> ModelPruneResult:
    """Prune any network on labelled batches, and repair it without training.

    Which channels belong together is found by following them through the network: convolutions,
    linear layers, sums, concatenations, splits, attention. What cannot be followed, or where the
    network has a number written down, keeps its channels. The channels of a group are looked at
    where they are read: the neurons of a perceptron behind their activation function.

    Where `torch.distributed` runs, every process passes its own part of the batches: they gather
    together, the first one selects, all repair on samples of all, and all get the same network.

    Args:
        model: The network. It is left as it is.
        batches: What `gather_moments` takes, more than once in the same order: a list, or a loader
            that does not shuffle.
        classes: The names of the classes, or their number; criteria other than ``"separability"``
            need none, nor labels.
        label_of: Gives the labels of a batch.
        layers: Names or patterns (``"blocks.*.mlp.*"``) of layers that put channels out; with them
            go all that share theirs. All of them if left out.
        protect: Names or patterns of layers that keep all channels.
        config: How channels are selected; the preset ``"repair"`` if left out. Other settings
            with it: ``SelectionConfig.preset("repair", round_to=8)``.
        target_flops: Share of the operations of convolutions and linear layers to keep, in (0, 1].
        target_params: The same for the parameters; with both, both hold.
        mode: ``"remove"`` takes the channels out of the tensors, ``"zero"`` leaves the shapes as
            they are. Both networks compute the same.
        repair: ``"none"``, or some of ``"mean"``, ``"fold"``, ``"reconstruct"`` and ``"bn"`` joined
            by ``+``. What has no bias, and no batch normalization behind it, gets one.
        repair_samples: Samples of the first batches to repair on, and to measure damage on.
        state_path: A file for what has been gathered so far, also on Ctrl-C.
        resume: Go on with it.
        progress: Called with (what, done, in all).

    Raises:
        InputError: If an argument does not fit, the network cannot be followed, or nothing in it
            can go.
    """
    config = settings_of(config, SelectionConfig.preset("repair"))
    methods = parse_repair(repair)
    targets = Targets(target_flops, target_params)
    require_mode(mode)
    repair_samples = whole_number(repair_samples, "repair_samples")
    if isinstance(batches, Iterator) or not isinstance(batches, Iterable):
        raise InputError(
            f"batches must be iterable more than once, got {type(batches).__name__}: pass a list"
        )
    network = unwrapped(model)
    device = _device(network)
    ranks = Ranks.current()
    is_looked_at = methods or needs_images(config) or needs_damage(config, targets)
    n_samples = repair_samples if is_looked_at else _EXAMPLES
    share = first_samples(batches, -(-n_samples // ranks.count))
    samples = ModelInputs.cat(ranks.all_of(share.to("cpu"))).first(n_samples).to(device)
    with undisturbed(device):
        example = samples.first(_EXAMPLES)
        graph = channels_of(network, example)
        groups = choose_groups(graph, layers, protect)
        original = full_cost(graph)
        require_reach(graph, groups, targets, original, config)
        require_gamma(graph, groups, config)
        moments: Mapping[str, ClassMoments] = {}
        if config.criterion == "separability":
            moments = gather_moments(
                network,
                batches,
                layers=_places(graph, groups),
                classes=classes,
                label_of=label_of,
                state_path=state_path,
                resume=resume,
                progress=_batches(progress),
            )
        calibration = Calibration(samples)
        with observed(network):
            select = partial(
                observe_and_select,
                network,
                graph.with_biases() if set(methods) - {"bn"} else graph,
                groups,
                {group.name: _moments(graph, group, moments) for group in groups},
                calibration,
                config=config,
                targets=targets,
                original=original,
                error_of=output_error,
                devices=[device],
                together=True,
                progress=progress,
            )
            selections = ranks.on_first(select)
        keep = {name: selection.keep.tolist() for name, selection in selections.items()}
        plan = PruningPlan(
            model_name=type(network).__name__,
            model_sha256=fingerprint(network),
            data_sha256=_digest(moments),
            gathering=_account(moments),
            selection=config.model_dump(mode="json"),
            mode=mode,
            repair="+".join(methods) or "none",
            repair_images=len(calibration) if methods else 0,
            targets=targets.as_dict(),
            steps=1,
            groups=[
                GroupPlan.of(
                    group.name,
                    {layer: at.tolist() for layer, at in group.members.items()},
                    selections[group.name],
                    list(range(group.n_channels)),
                )
                for group in groups
            ],
            versions=versions(),
            cost=_costs(graph, keep, len(example)),
        )
        pruned = _carried_out(network, graph, plan, calibration, progress)
        plan = _with_biases_of(plan, graph, pruned)
        ranks.as_first(pruned)
        return ModelPruneResult(pruned, plan, moments)


def apply_plan(
    model: nn.Module,
    plan: PruningPlan | str | os.PathLike[str],
    batches: Iterable[Any],
    *,
    mode: Mode | None = None,
    repair: str | None = None,
    progress: Progress | None = None,
) -> ModelPruneResult:
    """Replay a plan on a network of the same architecture.

    Args:
        model: The network. It is left as it is.
        plan: The plan or its file.
        batches: Inputs, to follow the channels with and to repair on; they need no labels.
        mode: ``"remove"`` or ``"zero"``; the plan's if left out.
        repair: How; as the plan says if left out.
        progress: Called with (what, done, in all).

    Raises:
        InputError: If the plan does not fit the network, or an argument is bad.
    """
    if not isinstance(plan, PruningPlan):
        plan = PruningPlan.load(plan)
    require_mode(mode or plan.mode)
    methods = parse_repair(plan.repair if repair is None else repair)
    network = unwrapped(model)
    n_samples = plan.repair_images or _REPAIR_SAMPLES
    samples = first_samples(batches, n_samples if methods else _EXAMPLES).to(_device(network))
    with undisturbed(_device(network)):
        graph = channels_of(network, samples.first(_EXAMPLES))
        plan.require_fit(graph, type(network).__name__)
        if fingerprint(network) != plan.model_sha256:
            warnings.warn(
                f"the plan was made for another {plan.model_name}: these are other weights",
                stacklevel=2,
            )
        changes = {
            "mode": mode or plan.mode,
            "repair": "+".join(methods) or "none",
            "repair_images": len(samples) if methods else 0,
        }
        plan = plan.model_copy(update=changes)
        pruned = _carried_out(network, graph, plan, Calibration(samples), progress)
        return ModelPruneResult(pruned, plan, {})


def channels_of(network: nn.Module, example: ModelInputs) -> ChannelGraph:
    """Return the channels of a network that may go, found by following them and by trying it.

    Raises:
        InputError: If the network cannot be followed, or nothing in it can go.
    """
    with torch.no_grad(), observed(network):
        try:
            # What it keeps for later calls must be real.
            example = example.with_answers_of(network)
        except Exception as error:
            raise InputError(
                f"model must run on the first batch, got {_first_line(error)}"
            ) from error
    try:
        in_training = bool(idle_modules(network, example))
        graph = trace_channels(
            network,
            example,
            training=in_training,
            predicting=network if in_training else None,
        )
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"model must run without the contents of its tensors, got {_first_line(error)}"
        ) from error
    graph = rehearse(network, graph, example)
    with observed(network):
        graph = confirm(network, graph, example)
    unread = [group.name for group in graph.groups if not readers_of(graph, group)]
    graph = graph.without(dict.fromkeys(unread, "no module reads all of them alike"))
    if not graph.groups:
        reasons = "; ".join(f"{layer}: {why}" for layer, why in list(graph.held.items())[:3])
        reasons = reasons or "what its layers put out could not be followed"
        raise InputError(f"model must have channels that can go, got none ({reasons})")
    return graph


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def output_error(after: Any, before: Any) -> float:
    """Return how far a network's outputs are from what they were, in units of their variance.

    What was NaN or infinite, as where a mask lies over it, does not count.

    Raises:
        InputError: If there is nothing to compare.
    """
    total, compared = 0.0, False
    for now, was in zip(tensors_in(after), tensors_in(before), strict=True):
        if was.is_floating_point() and was.isfinite().any():
            finite = was.isfinite()
            old, new = was[finite].double(), now[finite].double()
            spread = (old - old.mean()).square().sum().clamp(min=1e-12)
            total += float((new - old).square().sum() / spread)
            compared = True
    if not compared:
        raise InputError(
            f"model must put out tensors with finite numbers, got {type(before).__name__}: they "
            "tell what damage does; allocation='proportion' does without"
        )
    return total if math.isfinite(total) else _RUIN


def _carried_out(
    network: nn.Module,
    graph: ChannelGraph,
    plan: PruningPlan,
    calibration: Calibration,
    progress: Progress | None,
) -> nn.Module:
    """Return a copy of the network as the plan says, in its mode."""
    modes = {name: module.training for name, module in network.named_modules()}
    with observed(network):
        pruned = remove_and_repair(
            network,
            graph,
            plan.keep,
            methods=parse_repair(plan.repair),
            calibration=calibration,
            shrink=_shrink,
            progress=part(progress, "repair"),
        )
        if plan.mode == "zero":
            whole = deepcopy(network)
            expand_channels(whole, pruned, graph.on(whole), graph.kept(plan.keep))
            pruned = whole
    for name, module in pruned.named_modules():
        module.training = modes.get(name, False)
    return pruned


def _shrink(model: nn.Module, graph: ChannelGraph, stays: NDArray[Any]) -> None:
    remove_channels(graph, stays)


def _device(network: nn.Module) -> torch.device:
    return next((p.device for p in network.parameters()), torch.device("cpu"))


def _places(graph: ChannelGraph, groups: Sequence[ChannelGroup]) -> list[str]:
    """Return the layers at which the channels of groups are looked at."""
    found = (name for group in groups for name in readers_of(graph, group))
    return list(dict.fromkeys(f"{name}:input" for name in found))


def _moments(
    graph: ChannelGraph, group: ChannelGroup, moments: Mapping[str, ClassMoments]
) -> list[ClassMoments]:
    """Return the moments of a group's channels wherever they are read."""
    if not moments:  # a criterion that does not look at classes
        return [ClassMoments.zeros(group.n_channels, ["none"])]
    found = []
    for name, places in readers_of(graph, group).items():
        columns = places.reshape(group.n_channels, -1).T
        step = -(-len(columns) // _MOST_PLACES)
        for rows in columns[::step]:
            found.append(moments[f"{name}:input"].select(torch.from_numpy(rows.copy())))
    return found


def _batches(progress: Progress | None) -> Any:
    if progress is None:
        return None
    return lambda done, total: progress("batches", done, done if total is None else total)


def _digest(moments: Mapping[str, ClassMoments]) -> str:
    """Return a SHA-256 of what has been gathered."""
    digest = hashlib.sha256()
    for name, layer in moments.items():
        digest.update(name.encode())
        for tensor in (layer.count, layer.mean, layer.m2):
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


def _account(moments: Mapping[str, ClassMoments]) -> dict[str, Any]:
    first = next(iter(moments.values()), None)
    if first is None:
        return {"classes": [], "samples": 0}
    return {
        "classes": list(first.class_names),
        "samples": int(first.count.sum(0).max()),
        "processes": Ranks.current().count,
    }


def _costs(graph: ChannelGraph, keep: Mapping[str, Sequence[int]], n_samples: int) -> Costs:
    """Return what the network costs before and after, for one of those it was traced with."""
    before, after = (graph.cost(graph.kept(kept)) for kept in ({}, keep))
    before, after = (replace(cost, flops=cost.flops // n_samples) for cost in (before, after))
    return Costs(
        parameters=(before.parameters, after.parameters), flops=(before.flops, after.flops)
    )


def _with_biases_of(plan: PruningPlan, graph: ChannelGraph, pruned: nn.Module) -> PruningPlan:
    """Return a plan that counts the biases that repair has added."""
    assert plan.cost is not None
    modules: dict[str, Any] = dict(pruned.named_modules())
    stays = graph.kept(plan.keep)
    added = sum(
        int(stays[use.outputs].sum())
        for use in graph.uses.values()
        if use.mixes and use.module.bias is None and modules[use.name].bias is not None
    )
    before, after = plan.cost.parameters
    cost = plan.cost.model_copy(update={"parameters": (before, after + added)})
    return plan.model_copy(update={"cost": cost})
