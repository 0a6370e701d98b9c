"""What is computed on: the seeds are written here and nowhere else."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..embedding import tsne
from ..errors import InputError
from ..moments import ClassMoments
from ..separability import jeffries_matusita

CLASSES = 80
_KINDS_OF_CHANNEL = 24
_REAL = {128: "model.6.cv2", 256: "model.8.cv2"}  # layers of `real_embeddings`, by channels

# Output channels of the 57 convolutions before and in the head of YOLOv8n.
# fmt: off
YOLOV8N = [
    16, 32, 32, 16, 16, 32, 64, 64, 32, 32, 32, 32, 64, 128, 128, 64, 64, 64, 64, 128,
    256, 256, 128, 128, 256, 128, 256, 128, 64, 64, 128, 64, 32, 32, 64, 64, 128, 64,
    64, 128, 128, 256, 128, 128, 256, 64, 64, 64, 64, 64, 64, 80, 80, 80, 80, 80, 80,
]
# fmt: on


@cache
def class_moments(n_channels: int, n_classes: int = CLASSES, seed: int = 0) -> ClassMoments:
    """Return moments of channels of 24 kinds, each with noise of its own."""
    rng = np.random.default_rng([seed, n_channels, n_classes])
    kind = rng.integers(0, _KINDS_OF_CHANNEL, n_channels)
    mean = rng.normal(size=(n_classes, _KINDS_OF_CHANNEL))[:, kind]
    mean += 0.15 * rng.normal(size=mean.shape)
    variance = 0.25 * np.exp(0.6 * rng.normal(size=mean.shape))
    count = torch.full(mean.shape, 10)
    names = tuple(str(number) for number in range(n_classes))
    return ClassMoments(count, torch.from_numpy(mean), torch.from_numpy(variance * 10), names)


@cache
def separability(n_channels: int) -> NDArray[np.float32]:
    """Return the separability matrix ``[C, P]`` of `class_moments`."""
    matrix: NDArray[np.float32] = jeffries_matusita(class_moments(n_channels)).matrix.numpy()
    return matrix


@cache
def real_embeddings() -> dict[str, NDArray[np.float32]]:
    """Return ``[C, 2]`` points for each convolution of a YOLOv8n, by name.

    They are its channels by how they separate the classes of coco128, as `tsne` laid them out.
    """
    with np.load(Path(__file__).with_name("yolov8n.npz")) as real:
        return dict(real)


@cache
def points(kind: str, n_points: int) -> NDArray[np.float32]:
    """Return ``[N, 2]`` points: an ``"embedding"``, ``"clustered"``, ``"uniform"``, ``"yolov8n"``.

    The last are `real_embeddings`.

    Raises:
        InputError: If there are no real ones of that size.
    """
    if kind == "yolov8n":
        if n_points not in _REAL:
            sizes = ", ".join(str(size) for size in _REAL)
            raise InputError(f"case size must be one of {sizes} for real points, got {n_points}")
        return real_embeddings()[_REAL[n_points]]
    if kind == "embedding":
        embedding: NDArray[np.float32] = tsne(separability(n_points)).embedding
        return embedding
    rng = np.random.default_rng([1, n_points])
    if kind == "uniform":
        return rng.random((n_points, 2)).astype(np.float32)
    centres = 10.0 * rng.normal(size=(max(4, n_points // 20), 2))
    chosen = centres[rng.integers(0, len(centres), n_points)]
    return (chosen + rng.normal(size=(n_points, 2))).astype(np.float32)
