"""Mean average precision and recall, by Ultralytics' own validators."""

from __future__ import annotations

import os
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from . import ultralytics_module
from .checkpoint import class_names_of, load_checkpoint, require_detection, task_of
from .contained import contained
from .mirror import mirror, splits_of

# By task, the validator, and what it measures besides boxes: its name there and here.
_VALIDATORS = {
    "detect": ("DetectionValidator", "", ""),
    "segment": ("SegmentationValidator", "seg", "mask_"),
    "pose": ("PoseValidator", "pose", "pose_"),
    "obb": ("OBBValidator", "", ""),
}
_SHOWN = 0.25  # the confidence from which on YOLO.predict shows boxes


def validate(
    model: nn.Module | str | os.PathLike[str],
    data: str | os.PathLike[str],
    image_size: int = 640,
    device: torch.device | str = "cpu",
    *,
    split: str = "val",
    batch_size: int = 16,
) -> dict[str, float]:
    """Return mean average precision and recall of a model on a data set.

    Ultralytics' validator leaves caches beside the labels, and repairs some images in place. So it
    is given links to the images, in a temporary folder, with labels in the model's own classes.

    Args:
        model: A network of Ultralytics for detection, segmentation, poses or rotated boxes, an
            ``ultralytics.YOLO``, or the path of a checkpoint. It is not changed.
        data: The data set's YAML file.
        image_size: Longer side of the network's input.
        device: Where the network runs.
        split: Which split to use.
        batch_size: Images in one forward pass.

    Returns:
        ``map50`` and ``map50_95`` of the boxes, in 0..1, and ``recall25``, the share of objects
        found (IoU 0.5) with confidence 0.25, from which on ``YOLO.predict`` shows boxes, in the
        mean of the classes: mAP knows no such threshold. Of segmentation ``mask_map50`` and
        ``mask_map50_95`` too, of poses ``pose_map50`` and ``pose_map50_95``.

    Raises:
        InputError: If the model or the data set cannot be used.
    """
    network: Any = model if isinstance(model, nn.Module) else load_checkpoint(model).model
    if isinstance(network, ultralytics_module("ultralytics.engine.model").Model):
        network = network.model
    require_detection(network, "model")
    splits, description = splits_of(network, data, [split])
    task = task_of(network)
    kind, other, prefix = _VALIDATORS[task]
    validator_class = getattr(ultralytics_module(f"ultralytics.models.yolo.{task}"), kind)
    with tempfile.TemporaryDirectory() as scratch, contained():
        folder = Path(scratch)
        # Ultralytics wants to be told of images for training too.
        file = mirror(
            {"val": splits[split]},
            class_names_of(network),
            folder,
            train="images/val",
            **description,
        )
        validator = validator_class(
            save_dir=folder / "runs",
            args={
                "data": str(file),
                "imgsz": image_size,
                "batch": batch_size,
                "device": str(device),
                "mode": "val",
                "rect": True,
                "workers": 0,
                "plots": False,
                "verbose": False,
            },
        )
        validator(model=deepcopy(network))
        measured = {"": validator.metrics.box}
        if other:
            measured[prefix] = getattr(validator.metrics, other)
    figures = {
        f"{prefix}{name}": float(value)
        for prefix, precision in measured.items()
        for name, value in (("map50", precision.map50), ("map50_95", precision.map))
    }
    return {**figures, "recall25": _recall(measured[""], _SHOWN)}


def _recall(found: Any, confidence: float) -> float:
    """Return the mean recall of the classes at a confidence."""
    curves = np.asarray(getattr(found, "r_curve", ()))  # [classes, confidences]
    if not curves.size:  # nothing is found, or nothing was there
        return 0.0
    return float(np.mean([np.interp(confidence, found.px, curve) for curve in curves]))
