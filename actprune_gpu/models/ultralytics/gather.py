"""Step 1: the activations of every channel at each object that the detector has found.

One forward pass serves all layers and the detector's predictions. Hooks pick the feature vectors at
the centres of the labelled objects while the network runs, so no feature map outlives its use; what
the predictions then confirm goes into the class moments, and nothing else is stored.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...devices import resolve_device
from ...errors import InputError
from ...moments import ClassMoments
from ...scalars import real_number, whole_number
from ...shards import N_SHARDS, Shards
from .checkpoint import Checkpoint, stride_of
from .dataset import Dataset
from .detector import Detector, Found
from .images import WINDOW, Window, load_windows
from .matching import model_classes
from .result import GatherResult, GatherSettings

# Many classes in a large network: then nothing but the whole is kept.
_MOST_SHARD_BYTES = 1 << 30


def gather(
    checkpoint: Checkpoint,
    dataset: Dataset,
    layers: Sequence[str],
    *,
    image_size: int = 640,
    batch_size: int | None = None,
    confidence: float = 0.25,
    iou: float = 0.5,
    nms_iou: float = 0.7,
    device: torch.device | str = "cpu",
    limit: int | None = None,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
    state_path: str | os.PathLike[str] | None = None,
    resume: bool = False,
    save_every: int = 512,
    may_find_nothing: bool = False,
) -> GatherResult:
    """Gather the class moments of some layers at the objects that the detector finds.

    An object counts when a prediction of its class overlaps it; its sample is the feature vector of
    each layer at the cell of the labelled box's centre. Images are letterboxed, and predictions
    made, as ``YOLO.predict`` does it. The checkpoint's model is not changed.

    Args:
        checkpoint: The model.
        dataset: The labelled images.
        layers: Names of the layers, such as those of `conv_blocks`.
        image_size: Longer side of the network's input; rounded up to a multiple of its stride.
        batch_size: Images in one forward pass, 1..32; by default 1 on the CPU and 16 elsewhere.
        confidence: Predictions below it do not count.
        iou: An object counts when a prediction overlaps it by more than this.
        nms_iou: Of predictions that overlap by more than this, only the best is kept.
        device: Where the network runs and the moments are: ``"auto"`` (a GPU if there is one),
            ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
        limit: Use only this many images, the first ones by name.
        strict: Stop at an image that cannot be decoded, instead of leaving it out.
        progress: Called with (images done, images in all).
        state_path: A file that the state is saved to on the way, also on Ctrl-C, and at the end.
        resume: Go on with the state in ``state_path``. The result is, bit for bit, that of a run
            without interruption on the same machine with as many threads; elsewhere convolutions
            may round differently.
        save_every: Number of images between two savings.
        may_find_nothing: Whether a result without samples is one.

    Raises:
        InputError: If an argument is out of range, a layer is not in the model, model and data set
            share no class, no object matches, or the saved state does not fit.
    """
    where = resolve_device(device)
    stride = stride_of(checkpoint.model)
    images = dataset.images if limit is None else dataset.images[: whole_number(limit, "limit")]
    settings = GatherSettings(
        model=checkpoint.fingerprint,
        data=dataset.fingerprint,
        split=dataset.split,
        n_images=len(images),
        layers=_distinct(layers),
        image_size=math.ceil(whole_number(image_size, "image_size") / stride) * stride,
        batch_size=_batch_size(batch_size, where),
        confidence=_fraction(confidence, "confidence"),
        iou=_fraction(iou, "iou"),
        nms_iou=_fraction(nms_iou, "nms_iou"),
    )
    class_map = model_classes(dataset.class_names, checkpoint.class_names)
    unknown = [name for name, n in zip(dataset.class_names, class_map, strict=True) if n < 0]
    state = GatherResult(
        {}, settings, 0, 0, 0, 0, tuple(unknown), dataset.skipped, ({},) * N_SHARDS
    )
    if resume:
        state = _saved_state(state_path, settings, where)
    if strict:
        state.skipped.require_none()
    detector = Detector(
        checkpoint.model,
        settings.layers,
        class_map,
        confidence=settings.confidence,
        iou=settings.iou,
        nms_iou=settings.nms_iou,
        device=where,
    )
    remaining = images[state.images_done :]
    windows = load_windows(remaining, settings.image_size, stride, settings.batch_size)
    try:
        for window in windows:
            found = _find(detector, window, state, progress)
            before, state = state, _advance(state, window, found, dataset.class_names)
            if strict:
                state.skipped.require_none()
            if state_path and state.images_done // save_every > before.images_done // save_every:
                state.save(state_path)
    except KeyboardInterrupt:
        if state_path:
            state.save(state_path)
        raise
    finally:
        windows.close()
    if not may_find_nothing:
        require_matches(state)
    if state_path:
        state.save(state_path)
    return state


def require_matches(found: GatherResult) -> None:
    """Raise ``InputError`` if there is no sample."""
    if not found.matched:
        corrupt = found.skipped.corrupt_images
        damaged = f"; {len(corrupt)} cannot be decoded, such as {corrupt[0]}" if corrupt else ""
        raise InputError(
            f"no labelled object was found by the detector: {found.objects} objects, "
            f"{found.predictions} predictions with confidence {found.settings.confidence}, "
            f"{found.settings.n_images} images{damaged}"
        )


def _find(
    detector: Detector,
    window: Window,
    state: GatherResult,
    progress: Callable[[int, int], None] | None,
) -> list[Found]:
    """Run the detector on the batches of a window."""
    found, done = [], state.images_done + len(window.corrupt)
    for batch in window.batches:
        found.append(detector.find(batch))
        done += len(batch)
        if progress:
            progress(done, state.settings.n_images)
    return found


def _advance(
    state: GatherResult, window: Window, found: list[Found], class_names: Sequence[str]
) -> GatherResult:
    """Return the state after a window; ``state`` itself stays as it is."""
    moments, shards = state.moments, state.shards
    if found:
        labels = torch.cat([part.labels for part in found])
        activations = {
            layer: torch.cat([part.activations[layer] for part in found])
            for layer in state.settings.layers
        }
        moments = _updated(moments, activations, labels, class_names)
        if shards and _bytes(moments) * N_SHARDS > _MOST_SHARD_BYTES:
            shards = ()
        places = state.images_done + torch.cat([part.images for part in found])
        shards = _with_samples(
            shards, activations, labels, places * N_SHARDS // state.settings.n_images, class_names
        )
    return replace(
        state,
        moments=moments,
        shards=shards,
        images_done=state.images_done + window.n_images,
        objects=state.objects + sum(part.objects for part in found),
        matched=state.matched + sum(len(part.labels) for part in found),
        predictions=state.predictions + sum(part.predictions for part in found),
        skipped=state.skipped.with_corrupt_images(window.corrupt),
    )


def _updated(
    moments: Mapping[str, ClassMoments],
    activations: Mapping[str, Tensor],
    labels: Tensor,
    class_names: Sequence[str],
) -> Mapping[str, ClassMoments]:
    """Return new moments with more samples in them; the old ones stay as they are."""
    new = {}
    for layer, rows in activations.items():
        new[layer] = (
            moments[layer].copy()
            if layer in moments
            else ClassMoments.zeros(rows.shape[1], class_names, rows.device)
        )
        new[layer].update(rows, labels)
    return new


def _with_samples(
    shards: Shards,
    activations: Mapping[str, Tensor],
    labels: Tensor,
    shard_of: Tensor,
    class_names: Sequence[str],
) -> Shards:
    """Return new shards: each with its own samples; those that get none stay the same."""
    new = list(shards)
    for number in sorted(set(shard_of.tolist())) if shards else ():
        mine = (shard_of == number).nonzero().flatten()
        rows = {layer: values[mine.to(values.device)] for layer, values in activations.items()}
        new[number] = _updated(shards[number], rows, labels[mine], class_names)
    return tuple(new)


def _bytes(moments: Mapping[str, ClassMoments]) -> int:
    return sum(
        part.nbytes for layer in moments.values() for part in (layer.count, layer.mean, layer.m2)
    )


def _saved_state(
    path: str | os.PathLike[str] | None, settings: GatherSettings, device: torch.device
) -> GatherResult:
    if path is None:
        raise InputError("resume needs state_path, the file to go on with, got None")
    state = GatherResult.load(path)
    state.require(settings, path)
    return state.to(device)


def _batch_size(value: int | None, device: torch.device) -> int:
    if value is None:
        return 1 if device.type == "cpu" else 16
    return whole_number(value, "batch_size", 1, WINDOW)


def _fraction(value: float, name: str) -> float:
    share = real_number(value, name)
    if not 0.0 <= share <= 1.0:
        raise InputError(f"{name} must lie in 0..1, got {value}")
    return share


def _distinct(layers: Sequence[str]) -> tuple[str, ...]:
    if not layers or len(set(layers)) < len(layers):
        raise InputError(f"layers must be at least one name, none twice, got {list(layers)[:5]}")
    return tuple(layers)
