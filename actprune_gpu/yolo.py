"""Pruning of Ultralytics YOLO models: a model file and a data set in, a model out."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from .devices import resolve_device, resolve_devices
from .distributed import Ranks
from .engines import require_engine
from .errors import InputError
from .files import require_folder
from .models.ultralytics.account import account_of
from .models.ultralytics.calibration import affordable_images, load_calibration
from .models.ultralytics.channels import at_size, shrink_model, trace_model
from .models.ultralytics.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    stride_of,
)
from .models.ultralytics.checks import (
    require_classes,
    require_kept,
    require_key_points,
    require_unfinished,
)
from .models.ultralytics.confidence import match_confidence
from .models.ultralytics.dataset import load_dataset
from .models.ultralytics.effect import measure_effect
from .models.ultralytics.gather import gather
from .models.ultralytics.matching import known_classes
from .models.ultralytics.predictions import prediction_error
from .models.ultralytics.result import GatherResult
from .models.ultralytics.together import gather_together
from .models.ultralytics.train import train
from .models.ultralytics.validate import validate
from .progress import Progress, part
from .pruning.folder import MODEL_FILE, MOMENTS_FILE
from .pruning.graph import ChannelGraph
from .pruning.groups import MIN_CHANNELS, choose_groups, moments_of
from .pruning.plan import PLAN_FILE, Costs, GroupPlan, Mode, PruningPlan, require_mode
from .pruning.repair import parse_repair
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
from .pruning.zero import expand_channels
from .scalars import whole_number
from .selection import SelectionConfig, settings_of
from .shards import shards_path
from .versions import versions

__all__ = [
    "PruneResult",
    "apply",
    "gather",
    "load_checkpoint",
    "load_dataset",
    "measure_effect",
    "prune",
    "train",
    "trained_image_size",
    "validate",
]

DEFAULT_REPAIR = "reconstruct+bn"
DEFAULT_CONFIG = SelectionConfig.preset("repair")


@dataclass(frozen=True, eq=False)
class PruneResult:
    """A pruned model and how it came about.

    Attributes:
        model: The pruned network, of stock Ultralytics classes, in float32.
        plan: What was kept of which layers and why.
        gathered: The class moments of the last step and the account of their gathering; ``None`` if
            a plan was replayed.
        files: What was written, by kind (``"model"``, ``"plan"``, ``"moments"``).
    """

    model: nn.Module
    plan: PruningPlan
    gathered: GatherResult | None
    files: Mapping[str, Path]

    def _repr_html_(self) -> str:
        return self.plan._repr_html_()


def prune(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    layers: Sequence[str] = (),
    protect: Sequence[str] = (),
    config: SelectionConfig | None = None,
    target_flops: float | None = None,
    target_params: float | None = None,
    mode: Mode = "remove",
    repair: str = DEFAULT_REPAIR,
    repair_images: int = 128,
    steps: int = 1,
    split: str = "train",
    images: int | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    confidence: float = 0.25,
    device: str = "auto",
    strict: bool = False,
    resume: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> PruneResult:
    """Prune a YOLO model on a labelled data set, and repair it without training.

    It may be for detection, segmentation, poses or rotated boxes: what counts as found is decided
    by boxes, of rotated ones by those that enclose them.

    Writes ``pruned.pt``, which ``ultralytics.YOLO`` opens anywhere, ``plan.json`` and
    ``moments.safetensors`` into ``out``. An interrupt leaves the moments gathered so far;
    ``resume`` goes on with them. Where `torch.distributed` runs, each process gathers from its part
    of the images, and the first one selects and writes.

    Args:
        model: The checkpoint.
        data: The data set, an Ultralytics YAML file.
        out: Folder for the results; must be empty or missing, unless ``resume`` or ``force``.
        layers: Names or patterns (``"model.6.*"``) of the layers to prune, and with them the layers
            whose channels go together with theirs; all of them if left out.
        protect: Names or patterns of layers that keep all channels.
        config: How channels are selected; the preset ``"repair"`` if left out. Other settings
            with it: ``SelectionConfig.preset("repair", round_to=8)``.
        target_flops: Share of the floating point operations that the model may keep, in (0, 1].
            The layers share it as ``config.allocation`` says, and its budget does not count.
        target_params: The same for the parameters; with both, both hold.
        mode: ``"remove"`` takes the channels out of the tensors, ``"zero"`` leaves the shapes as
            they are. Both models compute the same.
        repair: ``"none"``, or some of ``"mean"``, ``"fold"``, ``"reconstruct"`` and ``"bn"`` joined
            by ``+``: see `actprune_gpu.pruning.repair.repair`. Whatever the methods,
            class probabilities are then made those of the original on these images, in the mean.
        repair_images: Images of the split to repair on, the first ones by name; fewer if memory is
            short.
        steps: Take the channels away in so many steps of selection and repair.
        split: The split to gather activations from, and to repair on.
        images: Gather from only this many images, the first ones by name.
        image_size: Longer side of the network's input; what it was trained with if left out.
        batch_size: Images in one forward pass of gathering; 1 on the CPU and 16 elsewhere if left
            out.
        confidence: Predictions below it do not count.
        device: Where the network runs and channels are selected: ``"auto"`` (a GPU if there is one,
            and the selection on all of them), ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
        strict: Stop at the first bad image or label instead of leaving it out.
        resume: Go on with the moments in ``out``; with several steps, those of each so far.
        force: Write into a folder that is not empty; its files of the same names are replaced.
        progress: Called with (what, done, in all).

    Raises:
        InputError: If an input is bad. Nothing has been written then, except the moments.
    """
    config = settings_of(config, DEFAULT_CONFIG)
    where = resolve_device(device)
    require_engine(config.engine)
    methods = parse_repair(repair)
    targets = Targets(target_flops, target_params)
    steps = whole_number(steps, "steps")
    if steps > 1 and config.budget is None and not targets.as_dict():
        raise InputError(
            f"steps must be 1 where the knees alone decide, got {steps}: each step would take the "
            "knee of what the last one left; give a target or a budget"
        )
    repair_images = whole_number(repair_images, "repair_images")
    images = None if images is None else whole_number(images, "images")
    require_mode(mode)
    ranks = Ranks.current()
    folder = ranks.on_first(lambda: require_folder(out, may_hold_files=force or resume))
    checkpoint = load_checkpoint(model)
    require_kept(model, folder)
    graph = trace_model(checkpoint.model)
    chosen = choose_groups(graph, layers, protect)
    original = full_cost(graph)
    require_reach(graph, chosen, targets, original, config)
    require_gamma(graph, chosen, config)
    require_key_points(checkpoint, data, split)
    dataset = load_dataset(data, split, strict=strict)
    require_classes(dataset, checkpoint, images, config)
    size = trained_image_size(checkpoint) if image_size is None else image_size
    calibration, affordable = None, 0
    looks = needs_images(config) or needs_damage(config, targets)
    if methods or looks:
        affordable = affordable_images(graph, size, where, repair_images)
        stride = stride_of(checkpoint.model)
        calibration = load_calibration(dataset.images[:affordable], size, where, stride)
    if resume and steps > 1:
        ranks.on_first(partial(require_unfinished, folder, checkpoint))
    numbers = [graph.groups.index(group) for group in chosen]
    left = {number: np.arange(graph.groups[number].n_channels) for number in numbers}
    network = checkpoint.model.to(where)
    plans: dict[int, GroupPlan] = {}
    for step in range(1, steps + 1):
        now = graph if step == 1 else trace_model(network)
        # What an earlier step has left too few channels of stays as that step left it.
        numbers = [number for number in numbers if len(left[number]) >= MIN_CHANNELS]
        if not numbers:
            excess = targets.excess(full_cost(now), original)
            if excess > 1.0:
                raise InputError(
                    f"{targets} is out of reach, what step {step - 1} left costs {excess:.3f} "
                    "times that and has nothing more to take: prune more layers"
                )
            break
        groups = [now.groups[number] for number in numbers]
        state_path = folder / (MOMENTS_FILE if step == 1 else f"step-{step}-{MOMENTS_FILE}")
        gathered = gather_together(
            replace(checkpoint, model=network, fingerprint=_fingerprint(checkpoint, left, step)),
            dataset,
            list(dict.fromkeys(layer for group in groups for layer in group.members)),
            image_size=size,
            batch_size=batch_size,
            confidence=confidence,
            device=where,
            limit=images,
            strict=strict,
            progress=part(progress, "images"),
            state_path=state_path,
            resume=resume and (step == 1 or state_path.is_file()),
        )
        known = known_classes(dataset.class_names, checkpoint.class_names)
        error_of = partial(prediction_error, classes=known)
        select = partial(
            observe_and_select,
            network,
            now,
            groups,
            moments_of(groups, gathered.moments),
            calibration,
            config=_on_the_way(config, steps),
            targets=targets.after(step / steps),
            original=original,
            error_of=error_of,
            devices=resolve_devices(device),
            progress=progress,
        )
        selections = ranks.on_first(select)
        keep = {group.name: selections[group.name].keep.tolist() for group in groups}
        network = remove_and_repair(
            network,
            now,
            keep,
            methods=methods,
            calibration=calibration,
            shrink=shrink_model,
            finish=partial(match_confidence, classes=known),
            progress=part(progress, "repair"),
        )
        ranks.as_first(network)
        for number, group in zip(numbers, groups, strict=True):
            old = graph.groups[number]
            plans[number] = GroupPlan.of(
                old.name,
                {layer: at.tolist() for layer, at in old.members.items()},
                selections[group.name],
                left[number].tolist(),
            )
            left[number] = np.array(plans[number].keep)
    kept_by = list(plans.values())
    plan = PruningPlan(
        model_name=checkpoint.path.name,
        model_sha256=checkpoint.fingerprint,
        data_sha256=dataset.fingerprint,
        gathering=account_of(gathered, dataset),
        selection=config.model_dump(mode="json"),
        mode=mode,
        repair="+".join(methods) or "none",
        # Those tried: a replay leaves out the unreadable ones among them as well.
        repair_images=min(affordable, len(dataset.images)) if methods else 0,
        targets=targets.as_dict(),
        steps=steps,
        groups=kept_by,
        versions=versions(),
        cost=_costs(graph, kept_by, gathered.settings.image_size),
    )
    return ranks.on_first(
        partial(_write, checkpoint, graph, network.cpu(), plan, folder, gathered, state_path)
    )


def apply(
    plan: PruningPlan | str | os.PathLike[str],
    model: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str],
    mode: Mode | None = None,
    device: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> PruneResult:
    """Replay a plan on a model of the same architecture.

    Args:
        plan: The plan or its file.
        model: The checkpoint. A warning says so if it is not the one that the plan was made for.
        data: The data set to repair on; without it the channels are cut and nothing is repaired.
            A plan of several steps is carried out, and repaired, in one.
        out: Folder for ``pruned.pt`` and ``plan.json``; must be empty or missing, unless ``force``.
        mode: ``"remove"`` or ``"zero"``; the plan's if left out.
        device: Where the network is repaired.
        force: Write into a folder that is not empty.
        progress: Called with (what, done, in all).

    Raises:
        InputError: If the plan does not fit the model, or an argument is bad; nothing is written.
    """
    where = resolve_device(device)
    folder = require_folder(out, may_hold_files=force)
    checkpoint = load_checkpoint(model)
    require_kept(model, folder)
    if not isinstance(plan, PruningPlan):
        plan = PruningPlan.load(plan)
    require_mode(mode or plan.mode)
    methods = parse_repair(plan.repair)
    if checkpoint.fingerprint != plan.model_sha256:
        warnings.warn(
            f"the plan was made for another file: {plan.model_name}, "
            f"SHA-256 {plan.model_sha256[:12]}, not {checkpoint.fingerprint[:12]}",
            stacklevel=2,
        )
    graph = trace_model(checkpoint.model)
    plan.require_fit(graph, checkpoint.path.name)
    if methods and plan.steps > 1:
        warnings.warn(f"the plan's {plan.steps} steps are carried out in one", stacklevel=2)
    calibration, finish = None, None
    if methods and data is None:
        warnings.warn(
            f"the plan's repair, {plan.repair}, needs a data set: the channels are only cut",
            stacklevel=2,
        )
        methods = ()
    elif methods:
        assert data is not None
        require_key_points(checkpoint, data, plan.gathering["split"])
        dataset = load_dataset(data, plan.gathering["split"])
        known = known_classes(dataset.class_names, checkpoint.class_names)
        finish = partial(match_confidence, classes=known)
        size = int(plan.gathering["image_size"])
        affordable = affordable_images(graph, size, where, plan.repair_images)
        stride = stride_of(checkpoint.model)
        calibration = load_calibration(dataset.images[:affordable], size, where, stride)
    checkpoint.model.to(where)
    network = remove_and_repair(
        checkpoint.model,
        graph,
        plan.keep,
        methods=methods,
        calibration=calibration,
        shrink=shrink_model,
        finish=finish,
        progress=part(progress, "repair"),
    )
    changes = {"mode": mode or plan.mode, "repair": "+".join(methods) or "none"}
    plan = plan.model_copy(update=changes)
    return _write(checkpoint, graph, network.cpu(), plan, folder, None, None)


def trained_image_size(checkpoint: Checkpoint) -> int:
    """Return the input size that the model was trained with, which Ultralytics predicts with."""
    size = (checkpoint.contents.get("train_args") or {}).get("imgsz", 640)
    return int(max(size) if isinstance(size, list | tuple) else size)


def _fingerprint(checkpoint: Checkpoint, left: Mapping[int, Any], step: int) -> str:
    """Return what tells the network at a step from that at others."""
    if step == 1:
        return checkpoint.fingerprint
    kept = json.dumps({number: channels.tolist() for number, channels in left.items()})
    return hashlib.sha256((checkpoint.fingerprint + kept).encode()).hexdigest()


def _costs(graph: ChannelGraph, plans: Sequence[GroupPlan], image_size: int) -> Costs:
    """Return what the network costs before and after."""
    before, after = (
        at_size(graph.cost(graph.kept(keep)), image_size)
        for keep in ({}, {plan.name: plan.keep for plan in plans})
    )
    return Costs(
        parameters=(before.parameters, after.parameters), flops=(before.flops, after.flops)
    )


def _keep_last_moments(folder: Path, last: Path) -> None:
    """Put the moments of the last step in the place of the first's; those between go."""
    first = folder / MOMENTS_FILE
    if last != first:
        shards_path(first).unlink(missing_ok=True)
        for old, new in ((last, first), (shards_path(last), shards_path(first))):
            if old.is_file():
                old.replace(new)
    for file in folder.glob(f"step-*-{MOMENTS_FILE}"):
        file.unlink()
        shards_path(file).unlink(missing_ok=True)


def _on_the_way(config: SelectionConfig, steps: int) -> SelectionConfig:
    """Return the settings of one of several steps: together they keep the budget's bounds."""
    if config.budget is None or steps == 1:
        return config
    low, high = config.budget
    return config.model_copy(update={"budget": (low ** (1 / steps), high ** (1 / steps))})


def _write(
    checkpoint: Checkpoint,
    graph: ChannelGraph,
    network: nn.Module,
    plan: PruningPlan,
    folder: Path,
    gathered: GatherResult | None,
    state_path: Path | None,
) -> PruneResult:
    if plan.mode == "zero":
        checkpoint.model.cpu()
        expand_channels(checkpoint.model, network, graph, graph.kept(plan.keep))
        network = checkpoint.model
    files = {"model": folder / MODEL_FILE, "plan": folder / PLAN_FILE}
    save_checkpoint(checkpoint, network, files["model"])
    plan.save(files["plan"])
    if gathered and state_path:
        files["moments"] = folder / MOMENTS_FILE
        _keep_last_moments(folder, state_path)
    return PruneResult(network, plan, gathered, files)
