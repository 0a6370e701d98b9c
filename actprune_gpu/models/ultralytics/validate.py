"""Mean average precision, by Ultralytics' own validator."""

from __future__ import annotations

import os
import tempfile
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from . import ultralytics_module
from .checkpoint import class_names_of, load_checkpoint
from .contained import contained
from .dataset import load_dataset
from .mirror import boxes_of, mirror


def validate(
    model: nn.Module | str | os.PathLike[str],
    data: str | os.PathLike[str],
    image_size: int = 640,
    device: torch.device | str = "cpu",
    *,
    split: str = "val",
    batch_size: int = 16,
) -> dict[str, float]:
    """Return the mean average precision of a detection model on a data set.

    Ultralytics' validator leaves caches beside the labels, and repairs some images in place. So it
    is given links to the images, in a temporary folder, with labels in the model's own classes.

    Args:
        model: A detection model of Ultralytics, or the path of its checkpoint. It is not changed.
        data: The data set's YAML file.
        image_size: Longer side of the network's input.
        device: Where the network runs.
        split: Which split to use.
        batch_size: Images in one forward pass.

    Returns:
        ``map50`` and ``map50_95``, in 0..1.

    Raises:
        InputError: If the model or the data set cannot be used.
    """
    network = model if isinstance(model, nn.Module) else load_checkpoint(model).model
    names = class_names_of(network)
    images = boxes_of(load_dataset(data, split), names)
    detect = ultralytics_module("ultralytics.models.yolo.detect")
    with tempfile.TemporaryDirectory() as scratch, contained():
        folder = Path(scratch)
        # Ultralytics wants to be told of images for training too.
        description = mirror({"val": images}, names, folder, train="images/val")
        validator = detect.DetectionValidator(
            save_dir=folder / "runs",
            args={
                "data": str(description),
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
        box = validator.metrics.box
        return {"map50": float(box.map50), "map50_95": float(box.map)}
