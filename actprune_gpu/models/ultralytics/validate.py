"""Mean average precision, by Ultralytics' own validator."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import yaml
from torch import nn

from . import ultralytics_module
from .checkpoint import class_names_of, load_checkpoint
from .dataset import Dataset, load_dataset
from .matching import model_classes


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
    dataset = load_dataset(data, split)
    detect = ultralytics_module("ultralytics.models.yolo.detect")
    with (
        tempfile.TemporaryDirectory() as scratch,
        _contained(),
        # Checking a data set makes Ultralytics download a font, for plots that nobody draws.
        mock.patch("ultralytics.data.utils.check_font"),
    ):
        folder = Path(scratch)
        validator = detect.DetectionValidator(
            save_dir=folder / "runs",
            args={
                "data": str(_mirror(dataset, names, folder)),
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


def _mirror(dataset: Dataset, names: tuple[str, ...], folder: Path) -> Path:
    """Make a data set of links in ``folder``, in the model's classes, and return its YAML file."""
    classes = np.array(model_classes(dataset.class_names, names))
    labelled = {image.name: image for image in dataset.images}
    background = dataset.skipped.images_without_labels + dataset.skipped.empty_label_files
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    # In the order of the names, as they are: it decides which images share a batch.
    for number, name in enumerate(sorted((*labelled, *background))):
        file = dataset.root / name
        _link(file, folder / "images" / f"{number:08d}{file.suffix}")
        if name in labelled:
            image = labelled[name]
            known = classes[image.classes] >= 0
            low, high = image.boxes[known, :2], image.boxes[known, 2:]
            rows = np.column_stack([classes[image.classes[known]], (low + high) / 2, high - low])
            np.savetxt(folder / "labels" / f"{number:08d}.txt", rows, fmt=["%d"] + ["%.9f"] * 4)
    description = folder / "data.yaml"
    content = {"path": str(folder), "train": "images", "val": "images", "names": list(names)}
    description.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return description


def _link(file: Path, link: Path) -> None:
    with file.open("rb") as stream:
        start = stream.read(2)
        stream.seek(-len(start), os.SEEK_END)
        # A JPEG without its end mark is rewritten by Ultralytics: that must happen to a copy.
        unfinished = start == b"\xff\xd8" and stream.read(2) != b"\xff\xd9"
    if not unfinished:
        try:
            link.symlink_to(file.absolute())
            return
        except OSError:
            pass  # a file system without links
    shutil.copyfile(file, link)


@contextmanager
def _contained() -> Iterator[None]:
    """Silence Ultralytics' tables and progress bars, and undo what it sets for the process."""
    logger: logging.Logger = ultralytics_module("ultralytics.utils").LOGGER
    level, threads = logger.level, torch.get_num_threads()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        torch.set_num_threads(threads)  # its choice of a device comes with a number of threads
