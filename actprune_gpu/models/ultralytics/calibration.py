"""The images that a network is repaired on, all of them as one batch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import psutil  # comes with Ultralytics
import torch

from ...errors import InputError
from ...pruning.graph import ChannelGraph
from ...pruning.sampling import Calibration
from ...scalars import whole_number
from .channels import EXAMPLE_SIZE
from .dataset import LabelledImage
from .images import LoadedImage, load_windows, to_input

# Feature maps as large as the largest that live at a time, in both networks and in the regressions.
_MAPS = 12


def affordable_images(
    graph: ChannelGraph, image_size: int, device: torch.device, wanted: int
) -> int:
    """Return on how many images a network can be repaired, ``wanted`` or fewer, with a warning.

    Raises:
        InputError: If memory does not suffice for a single one, or ``image_size`` is no size.
    """
    cells = (whole_number(image_size, "image_size") / EXAMPLE_SIZE) ** 2
    largest = max(use.positions * len(use.outputs) for use in graph.uses.values())
    each = int(4 * _MAPS * largest * cells)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    affordable = free // each
    if affordable < 1:
        raise InputError(
            f"repair needs {each} bytes for one image, got {free} free: "
            "use repair none, or smaller images"
        )
    if affordable < wanted:
        warnings.warn(
            f"repairing on {affordable} images instead of {wanted}: memory is short", stacklevel=2
        )
    return min(affordable, wanted)


def load_calibration(
    images: Sequence[LabelledImage],
    image_size: int,
    device: torch.device,
    stride: int = 32,
) -> Calibration:
    """Decode images, letterbox them as ``YOLO.predict`` does, and put them on one canvas size.

    Args:
        images: What to decode; unreadable ones are left out.
        image_size: Longer side of the network's input; rounded up to a multiple of its stride.
        device: Where the network runs.
        stride: Of the network.

    Raises:
        InputError: If none of them can be read.
    """
    side = -(-image_size // stride) * stride
    loaded: list[LoadedImage] = []
    for window in load_windows(images, side, stride, batch_size=1):
        loaded += [image for batch in window.batches for image in batch]
    if not loaded:
        raise InputError(f"none of {len(images)} images to repair on can be read")
    height = max(image.pixels.shape[0] for image in loaded)
    width = max(image.pixels.shape[1] for image in loaded)
    batch = torch.full((len(loaded), 3, height, width), 114 / 255, device=device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    content = torch.zeros(len(loaded), 4)
    for number, image in enumerate(loaded):
        rows, columns = image.pixels.shape[:2]
        batch[number, :, :rows, :columns] = to_input([image], device)[0]
        content[number] = torch.tensor([0, 0, columns, rows])
    return Calibration.of_images(batch, content)
