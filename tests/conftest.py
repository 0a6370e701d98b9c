"""Real inputs where they are present, and tiny ones made on the spot."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

TINY_CLASSES = ("cat", "dog", "owl")
_TINY_NETWORK = {
    "nc": len(TINY_CLASSES),
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C2f", [16, True]],
        [-1, 1, "Conv", [24, 3, 2]],
        [-1, 1, "DWConv", [24, 3]],
        [-1, 1, "SPPF", [16, 5]],
    ],
    "head": [[[2, 5], 1, "Detect", ["nc"]]],
}


@pytest.fixture(scope="session")
def realdata():
    """The folder of real checkpoints and images; the test is skipped where it is not there."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "realdata"
    folder = Path(os.environ.get("ACTPRUNE_REALDATA", default))
    if not (folder / "MANIFEST.md").is_file():
        pytest.skip(f"no real inputs in {folder}: set ACTPRUNE_REALDATA to their folder")
    return folder


@pytest.fixture(scope="session")
def real_moments(realdata):
    """Class moments of every convolution of a real YOLOv8n, from 128 real images."""
    pytest.importorskip("ultralytics")
    from actprune_gpu.models.ultralytics.checkpoint import conv_blocks
    from actprune_gpu.yolo import gather, load_checkpoint, load_dataset

    checkpoint = load_checkpoint(realdata / "yolov8n-coco-int8deq.pt")
    dataset = load_dataset(realdata / "coco128" / "coco128.yaml")
    return gather(checkpoint, dataset, list(conv_blocks(checkpoint.model))).moments


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """The built-in data set, small: path of its YAML file."""
    pytest.importorskip("ultralytics")
    from actprune_gpu.demo import write_shapes

    return write_shapes(tmp_path_factory.mktemp("shapes"), n_train=48, n_val=16, seed=0)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory):
    """Path of a checkpoint with random weights, three classes and every kind of convolution."""
    import torch

    tasks = pytest.importorskip("ultralytics.nn.tasks")
    torch.manual_seed(0)
    model = tasks.DetectionModel(dict(_TINY_NETWORK), nc=len(TINY_CLASSES), verbose=False)
    model.names = dict(enumerate(TINY_CLASSES))
    model.task = "detect"
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training: no two channels alike
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 2.0)
            torch.nn.init.normal_(module.bias, std=0.5)
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    contents = {
        "model": model.half(),
        "ema": None,
        "epoch": 7,
        "optimizer": {"state": {}},
        "train_args": {"imgsz": 96, "task": "detect"},
        "version": "8.4.0",
        "note": "kept",
    }
    torch.save(contents, path)
    return path


@pytest.fixture(scope="session")
def browser():
    """A real browser; the test is skipped where there is none."""
    from chromium import launched

    with launched() as found:
        yield found


@pytest.fixture
def make_dataset(tmp_path):
    """A function that writes a data set of random images and returns its YAML file."""

    def make(n_images=6, folder="data", sizes=((64, 96), (96, 64), (50, 90)), n_objects=3, seed=0):
        import cv2

        rng = np.random.default_rng(seed)
        root = tmp_path / folder
        for kind in ("images", "labels"):
            (root / kind / "train").mkdir(parents=True)
        for number in range(n_images):
            height, width = sizes[number % len(sizes)]
            coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
            image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(root / "images" / "train" / f"{number:03d}.png"), image)
            rows = [
                f"{rng.integers(len(TINY_CLASSES))} {x:.4f} {y:.4f} {w:.4f} {h:.4f}"
                for x, y, w, h in rng.uniform(0.3, 0.6, (n_objects, 4))
            ]
            (root / "labels" / "train" / f"{number:03d}.txt").write_text("\n".join(rows) + "\n")
        return write_yaml(root / "data.yaml")

    return make


def write_yaml(file, **changes):
    """Write a data set's YAML file; a key set to None is left out."""
    import yaml

    content = {"path": ".", "train": "images/train", "names": list(TINY_CLASSES)} | changes
    content = {key: value for key, value in content.items() if value is not None}
    file.write_text(yaml.safe_dump(content))
    return file
