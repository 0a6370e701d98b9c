"""The images that a network is repaired on, all of them as one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...pruning.sampling import Calibration
from .dataset import LabelledImage
from .images import LoadedImage, load_windows, to_input


def load_calibration(
    images: Sequence[LabelledImage],
    image_size: int,
    stride: int,
    device: torch.device,
) -> Calibration:
    """Decode images, letterbox them as ``YOLO.predict`` does, and put them on one canvas size.

    Args:
        images: What to decode; unreadable ones are left out.
        image_size: Longer side of the network's input, a multiple of ``stride``.
        stride: The network's stride.
        device: Where the network runs.
    """
    loaded: list[LoadedImage] = []
    for window in load_windows(images, image_size, stride, batch_size=1):
        loaded += [image for batch in window.batches for image in batch]
    height = max(image.pixels.shape[0] for image in loaded)
    width = max(image.pixels.shape[1] for image in loaded)
    batch = torch.full((len(loaded), 3, height, width), 114 / 255, device=device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    content = torch.zeros(len(loaded), 4)
    for number, image in enumerate(loaded):
        rows, columns = image.pixels.shape[:2]
        batch[number, :, :rows, :columns] = to_input([image], device)[0]
        content[number] = torch.tensor([0, 0, columns, rows])
    return Calibration(batch, content)
