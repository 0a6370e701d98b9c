"""Trains the checkpoint that comes with the package: `python -m actprune_gpu.demo.train`.

The network is Ultralytics' stock YOLOv8 at half the width of YOLOv8n, the trainer is Ultralytics'
own, the images are drawn. Everything happens in a temporary folder, on the CPU and without a
network; only the checkpoint stays, and nothing in it says where it was made.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from actprune_gpu.demo.shapes import IMAGE_SIZE, SHAPES, write_shapes
from actprune_gpu.errors import InputError
from actprune_gpu.files import replacing

SCALE = (0.33, 0.125, 1024)  # depth, width, max_channels: YOLOv8n has (0.33, 0.25, 1024)

HYPERPARAMETERS: dict[str, Any] = {
    "batch": 16,
    "nbs": 16,  # one optimizer step a batch
    "optimizer": "AdamW",
    "lr0": 0.003,
    "lrf": 0.01,
    "cos_lr": True,
    "weight_decay": 0.0005,
    "warmup_epochs": 1.0,
    "deterministic": True,
    # Images are drawn, so more images do what augmentation would; only the flips are free.
    "mosaic": 0.0,
    "scale": 0.0,
    "translate": 0.0,
    "hsv_h": 0.0,
    "hsv_s": 0.0,
    "hsv_v": 0.0,
    "fliplr": 0.5,
    "flipud": 0.5,
    "erasing": 0.0,
}


def build_model() -> Any:
    """Return the untrained DetectionModel: stock classes and layout, half YOLOv8n's width."""
    tasks = import_module("ultralytics.nn.tasks")
    config = tasks.yaml_model_load("yolov8n.yaml")
    config |= {"scales": {"t": list(SCALE)}, "scale": "t", "yaml_file": "yolov8t.yaml"}
    return tasks.DetectionModel(config, nc=len(SHAPES), verbose=False)


def train(
    out: str | Path,
    *,
    n_train: int,
    epochs: int,
    image_size: int = IMAGE_SIZE,
    n_val: int = 128,
    seed: int = 0,
) -> dict[str, float]:
    """Train the network on drawn shapes and store it in half precision.

    The last epoch's averaged weights are kept, so nothing is chosen on the validation images and
    the figures are those of images that training never saw.

    Args:
        out: Where to write the checkpoint, `.pt`.
        n_train: Number of training images.
        epochs: Number of passes over them.
        image_size: Side of the images in pixels.
        n_val: Number of validation images.
        seed: Seeds the images as well as the training.

    Returns:
        `mAP50` and `mAP50-95` of the stored checkpoint on the validation images, its `parameters`
        and `bytes`, and the `seconds` of training.

    Raises:
        InputError: A number is out of range.
    """
    if epochs < 1:
        raise InputError(f"epochs: expected an integer from 1, got {epochs!r}")
    import torch

    detect = import_module("ultralytics.models.yolo.detect")
    recipe = {**HYPERPARAMETERS, "epochs": epochs, "imgsz": image_size, "seed": seed}
    with (
        tempfile.TemporaryDirectory() as scratch,
        # Checking a data set makes Ultralytics download a font, for plots that nobody draws.
        mock.patch("ultralytics.data.utils.check_font"),
    ):
        data = str(
            write_shapes(
                Path(scratch) / "shapes",
                n_train=n_train,
                n_val=n_val,
                image_size=image_size,
                seed=seed,
            )
        )
        quiet = {"device": "cpu", "workers": 0, "plots": False, "project": scratch}
        trainer = detect.DetectionTrainer(
            overrides={
                **recipe,
                **quiet,
                "model": "shapes",
                "data": data,
                "name": "train",
                "amp": False,
                "val": False,  # only after the last epoch
            }
        )
        torch.manual_seed(seed)
        trainer.model = build_model()
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began

        save_checkpoint(trainer.ema.ema, out, recipe)
        model = import_module("ultralytics").YOLO(out)
        box = model.val(data=data, imgsz=image_size, name="val", verbose=False, **quiet).box
        return {
            "mAP50": float(box.map50),
            "mAP50-95": float(box.map),
            "parameters": sum(p.numel() for p in model.model.parameters()),
            "bytes": Path(out).stat().st_size,
            "seconds": seconds,
        }


def save_checkpoint(model: Any, out: str | Path, recipe: dict[str, Any]) -> None:
    """Write a checkpoint that a plain `ultralytics.YOLO(out)` loads, in half precision.

    Only what is named here goes in: Ultralytics' own checkpoints also carry the optimizer, the
    training arguments with the paths of the machine, and the state of the git repository.

    Args:
        model: The trained DetectionModel; it is changed in place.
        out: Where to write.
        recipe: The training arguments to record.
    """
    from datetime import date

    import torch
    import ultralytics

    model.criterion = None  # the loss, attached by training
    model.args = arguments = dict(recipe)
    model.half().eval().requires_grad_(False)
    checkpoint = {
        "model": model,
        "train_args": arguments,
        "epoch": -1,
        "date": date.today().isoformat(),
        "version": ultralytics.__version__,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
    }
    # Given a path rather than a file, torch would store its name in front of every tensor.
    with replacing(Path(out)) as temporary, temporary.open("wb") as file:
        torch.save(checkpoint, file)


def main(argv: Sequence[str] | None = None) -> None:
    """Train from the command line and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m actprune_gpu.demo.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--images", type=int, default=6000, help="training images")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--image-size", type=int, default=IMAGE_SIZE)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        figures = train(
            args.out,
            n_train=args.images,
            epochs=args.epochs,
            image_size=args.image_size,
            seed=args.seed,
        )
    except InputError as error:
        parser.error(str(error))
    for name, value in figures.items():
        print(f"{name:12s} {value:.3f}" if isinstance(value, float) else f"{name:12s} {value}")


if __name__ == "__main__":
    main()
