"""The case of gathering: class moments of every layer against a plain prediction pass."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from .cases import OURS, Case, Contender


@cache
def _images(n_images: int) -> tuple[TemporaryDirectory[str], Path]:
    """Return the YAML file of a data set, and the folder that lasts as long as this process."""
    from ..demo import write_shapes

    folder = TemporaryDirectory()
    return folder, write_shapes(Path(folder.name), n_train=n_images, n_val=1, image_size=640)


def gathering(n_images: int) -> Case:
    """Class moments of all layers of the built-in model at 640 pixels, images decoded included."""
    contenders = {
        OURS: Contender(lambda: _gather(n_images), needs="ultralytics"),
        "YOLO.predict": Contender(lambda: _predict(n_images), needs="ultralytics"),
    }
    return Case(
        contenders,
        quality=lambda predictions: f"{predictions} predictions",
        fault=lambda ours, other: "" if ours == other else "other predictions",
        notes={"YOLO.predict": "on as many threads as it chooses, one fewer than there are cores"},
    )


def _gather(n_images: int) -> int:
    """Return the number of predictions on the way."""
    from .. import yolo
    from ..demo import CHECKPOINT
    from ..models.ultralytics.checkpoint import conv_blocks

    checkpoint = yolo.load_checkpoint(CHECKPOINT)
    dataset = yolo.load_dataset(_images(n_images)[1])
    layers = list(conv_blocks(checkpoint.model))
    return yolo.gather(checkpoint, dataset, layers, image_size=640).predictions


def _predict(n_images: int) -> int:
    from ..demo import CHECKPOINT
    from ..models.ultralytics import ultralytics_module

    images = _images(n_images)[1].parent / "images" / "train"
    model = ultralytics_module("ultralytics").YOLO(CHECKPOINT)
    results = model.predict(images, stream=True, imgsz=640, device="cpu", verbose=False)
    return sum(len(result.boxes) for result in results)
