"""Pruning of Ultralytics YOLO detection models: a model file and a data set in, a model out."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from .devices import resolve_device
from .engines import require_engine
from .errors import InputError
from .layers import select_layers
from .models.hooks import resolve_layers
from .models.ultralytics.checkpoint import (
    Checkpoint,
    conv_blocks,
    load_checkpoint,
    save_checkpoint,
)
from .models.ultralytics.dataset import Dataset, load_dataset
from .models.ultralytics.gather import gather
from .models.ultralytics.result import GatherResult
from .models.ultralytics.validate import validate
from .pruning.plan import LayerPlan, PruningPlan
from .pruning.zero import zero_channels
from .selection import SelectionConfig
from .weights import LayerWeights

__all__ = ["PruneResult", "apply", "gather", "load_checkpoint", "load_dataset", "prune", "validate"]

MODEL_FILE = "pruned.pt"
PLAN_FILE = "plan.json"
MOMENTS_FILE = "moments.safetensors"
_MIN_CHANNELS = 3
_VERSIONS = ("actprune_gpu", "torch", "numpy", "numba", "kneed", "ultralytics")
# Called with what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class PruneResult:
    """A pruned model and how it came about.

    Attributes:
        model: The pruned network, of stock Ultralytics classes, in float32.
        plan: What was kept of which layer and why.
        gathered: The class moments and the account of their gathering; ``None`` if a plan was
            replayed.
        files: What was written, by kind (``"model"``, ``"plan"``, ``"moments"``).
    """

    model: nn.Module
    plan: PruningPlan
    gathered: GatherResult | None
    files: Mapping[str, Path]


def prune(
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    layers: Sequence[str] = (),
    config: SelectionConfig | None = None,
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
    """Prune a YOLO detection model on a labelled data set, by zeroing channels.

    Writes ``pruned.pt``, which ``ultralytics.YOLO`` opens anywhere, ``plan.json`` and
    ``moments.safetensors`` into ``out``. An interrupt leaves the moments gathered so far;
    ``resume`` goes on with them.

    Args:
        model: The checkpoint.
        data: The data set, an Ultralytics YAML file.
        out: Folder for the results; must be empty or missing, unless ``resume`` or ``force``.
        layers: Names or patterns (``"model.6.*"``) of convolution blocks of backbone and neck;
            all of them if left out.
        config: How channels are selected.
        split: The split to gather activations from.
        images: Use only this many images, the first ones by name.
        image_size: Longer side of the network's input; what it was trained with if left out.
        batch_size: Images in one forward pass; 1 on the CPU and 16 elsewhere if left out.
        confidence: Predictions below it do not count.
        device: Where the network runs and channels are selected: ``"auto"``, ``"cpu"``, ``"cuda"``,
            ``"cuda:1"``.
        strict: Stop at the first bad image or label instead of leaving it out.
        resume: Go on with the moments in ``out``.
        force: Write into a folder that is not empty; its files of the same names are replaced.
        progress: Called with (what, done, in all).

    Raises:
        InputError: If an input is bad. Nothing has been written then, except the moments.
    """
    config = config or SelectionConfig()
    where = resolve_device(device)
    require_engine(config.engine)
    folder = _require_folder(out, may_hold_files=force or resume)
    checkpoint = load_checkpoint(model)
    names = _require_layers(checkpoint, layers)
    dataset = load_dataset(data, split, strict=strict)
    gathered = gather(
        checkpoint,
        dataset,
        names,
        image_size=trained_image_size(checkpoint) if image_size is None else image_size,
        batch_size=batch_size,
        confidence=confidence,
        device=where,
        limit=images,
        strict=strict,
        progress=_part(progress, "images"),
        state_path=folder / MOMENTS_FILE,
        resume=resume,
    )
    blocks = conv_blocks(checkpoint.model)
    selections = select_layers(
        {name: moments.to(where) for name, moments in gathered.moments.items()},
        {name: layer_weights(blocks[name]) for name in names},
        config=config,
        progress=_part(progress, "layers"),
    )
    plan = PruningPlan(
        model_name=checkpoint.path.name,
        model_sha256=checkpoint.fingerprint,
        data_sha256=dataset.fingerprint,
        gathering=_account(gathered, dataset),
        selection=config.model_dump(mode="json"),
        layers=[LayerPlan.of(name, selections[name]) for name in names],
        versions=_versions(),
    )
    _carry_out(plan, checkpoint)
    return _write(checkpoint, plan, folder, gathered)


def apply(
    plan: PruningPlan | str | os.PathLike[str],
    model: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    force: bool = False,
) -> PruneResult:
    """Replay a plan on a model of the same architecture, without data.

    Args:
        plan: The plan or its file.
        model: The checkpoint. A warning says so if it is not the one that the plan was made for.
        out: Folder for ``pruned.pt`` and ``plan.json``; must be empty or missing, unless ``force``.
        force: Write into a folder that is not empty.

    Raises:
        InputError: If the plan does not fit the model, or an argument is bad; nothing is written.
    """
    folder = _require_folder(out, may_hold_files=force)
    if not isinstance(plan, PruningPlan):
        plan = PruningPlan.load(plan)
    checkpoint = load_checkpoint(model)
    if checkpoint.fingerprint != plan.model_sha256:
        warnings.warn(
            f"the plan was made for another file: {plan.model_name}, "
            f"SHA-256 {plan.model_sha256[:12]}, not {checkpoint.fingerprint[:12]}",
            stacklevel=2,
        )
    _carry_out(plan, checkpoint)
    return _write(checkpoint, plan, folder, None)


def layer_weights(block: nn.Module) -> LayerWeights:
    """Return the weights of a convolution block's channels: norms of its filters, and gamma."""
    conv: Any = block.conv
    gamma = getattr(getattr(block, "bn", None), "weight", None)
    return LayerWeights.from_filters(conv.weight, gamma)


def trained_image_size(checkpoint: Checkpoint) -> int:
    """Return the input size that the model was trained with, which Ultralytics predicts with."""
    size = (checkpoint.contents.get("train_args") or {}).get("imgsz", 640)
    return int(max(size) if isinstance(size, list | tuple) else size)


def _require_folder(out: str | os.PathLike[str], *, may_hold_files: bool) -> Path:
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"out must be a folder, got the file {folder}")
    if folder.is_dir() and any(folder.iterdir()) and not may_hold_files:
        raise InputError(f"out must be an empty folder, got {folder} with files in it: use force")
    return folder


def _require_layers(checkpoint: Checkpoint, patterns: Sequence[str]) -> list[str]:
    blocks: dict[str, Any] = conv_blocks(checkpoint.model)
    names = resolve_layers(list(blocks), list(patterns))
    wide = [name for name in names if blocks[name].conv.out_channels >= _MIN_CHANNELS]
    narrow = [name for name in names if name not in wide]
    if narrow:
        width = blocks[narrow[0]].conv.out_channels
        raise InputError(
            f"layers must have at least {_MIN_CHANNELS} channels, got {narrow[0]} with {width}"
        )
    return wide


def _part(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(what, done, total)


def _account(gathered: GatherResult, dataset: Dataset) -> dict[str, Any]:
    settings = asdict(gathered.settings)
    for elsewhere in ("model", "data", "layers"):
        del settings[elsewhere]
    return {
        **settings,
        "images": gathered.images_done,
        "objects": gathered.objects,
        "matched": gathered.matched,
        "predictions": gathered.predictions,
        "unknown_classes": list(gathered.unknown_classes),
        "skipped": {kind: list(names) for kind, names in gathered.skipped.as_dict().items()},
        "classes": list(dataset.class_names),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _carry_out(plan: PruningPlan, checkpoint: Checkpoint) -> None:
    """Zero in the checkpoint's model what the plan drops, once all of it is known to fit."""
    blocks: dict[str, Any] = conv_blocks(checkpoint.model)
    for layer in plan.layers:
        if layer.name not in blocks:
            raise InputError(
                f"the plan's layer {layer.name} is not in {checkpoint.path.name}, "
                f"whose layers are {', '.join(list(blocks)[:3])}..."
            )
        width = blocks[layer.name].conv.out_channels
        if width != layer.channels:
            raise InputError(
                f"the plan's layer {layer.name} has {layer.channels} channels, "
                f"that of {checkpoint.path.name} has {width}"
            )
    for layer in plan.layers:
        zero_channels(blocks[layer.name], layer.drop)


def _write(
    checkpoint: Checkpoint, plan: PruningPlan, folder: Path, gathered: GatherResult | None
) -> PruneResult:
    files = {"model": folder / MODEL_FILE, "plan": folder / PLAN_FILE}
    save_checkpoint(checkpoint, checkpoint.model, files["model"])
    plan.save(files["plan"])
    if gathered:
        files["moments"] = folder / MOMENTS_FILE
    return PruneResult(checkpoint.model, plan, gathered, files)
