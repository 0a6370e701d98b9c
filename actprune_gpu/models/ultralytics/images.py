"""From image files to the network's input, as ``YOLO.predict`` makes it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import ultralytics_module
from .contained import installing_nothing
from .dataset import LabelledImage

# Images decoded ahead and sorted by shape into batches. It is a constant, so that the order in
# which images are used depends on the data alone, and memory does not depend on their number.
WINDOW = 32

_WHOLE = np.array([[0.0, 0.0, 1.0, 1.0]])  # an image, relative to itself
_GREY = (114, 114, 114)  # what Ultralytics pads with


@dataclass(frozen=True)
class Letterbox:
    """How an image is fitted into the network's input: scaled, then padded on all sides.

    The input is the smallest rectangle with sides of whole strides that holds the scaled image.

    Attributes:
        scaled: (height, width) of the scaled image.
        top: Rows of padding above it.
        left: Columns of padding to the left of it.
        size: (height, width) of the input.
    """

    scaled: tuple[int, int]
    top: int
    left: int
    size: tuple[int, int]

    @classmethod
    def fit(cls, shape: tuple[int, int], image_size: int, stride: int) -> Letterbox:
        """Return how an image of ``shape`` (height, width) fits into ``image_size`` pixels."""
        gain = min(image_size / shape[0], image_size / shape[1])
        height, width = (max(round(side * gain), 1) for side in shape)
        # Half of the padding on each side; the tenth decides which side an odd pixel goes to.
        down, across = (image_size - height) % stride / 2, (image_size - width) % stride / 2
        top, bottom = round(down - 0.1), round(down + 0.1)
        left, right = round(across - 0.1), round(across + 0.1)
        size = (height + top + bottom, width + left + right)
        return cls((height, width), top, left, size)

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the input, ``[H, W, 3]``, for an image ``[h, w, 3]``."""
        import cv2

        scaled: Any = image
        if image.shape[:2] != self.scaled:
            scaled = cv2.resize(image, self.scaled[::-1], interpolation=cv2.INTER_LINEAR)
        bottom = self.size[0] - self.top - self.scaled[0]
        right = self.size[1] - self.left - self.scaled[1]
        padded: Any = cv2.copyMakeBorder(
            scaled, self.top, bottom, self.left, right, cv2.BORDER_CONSTANT, value=_GREY
        )
        return np.asarray(padded, dtype=np.uint8)

    def boxes(self, relative: NDArray[np.float64]) -> Tensor:
        """Return boxes ``[M, 4]`` in pixels of the input, from boxes relative to the image."""
        height, width = self.scaled
        scale = torch.tensor([width, height, width, height], dtype=torch.float64)
        shift = torch.tensor([self.left, self.top, self.left, self.top], dtype=torch.float64)
        return torch.from_numpy(relative) * scale + shift


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """A decoded image, ready for the network.

    Attributes:
        source: The image and its labels.
        pixels: ``[H, W, 3]`` uint8, blue-green-red, letterboxed.
        boxes: ``[M, 4]`` float64, the objects in pixels of ``pixels``.
        edges: ``[4]`` float64, the same of the whole image, without padding.
        number: Its place in the window.
    """

    source: LabelledImage
    pixels: NDArray[np.uint8]
    boxes: Tensor
    edges: Tensor
    number: int


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive images of a data set.

    Attributes:
        n_images: How many there are, unreadable ones included.
        batches: The others, in batches of equal shape.
        corrupt: Names of those that cannot be decoded.
    """

    n_images: int
    batches: tuple[tuple[LoadedImage, ...], ...]
    corrupt: tuple[str, ...]


def load_windows(
    images: Sequence[LabelledImage], image_size: int, stride: int, batch_size: int
) -> Generator[Window, None, None]:
    """Decode images in order, one window ahead of the caller, in a thread.

    Args:
        images: What to decode.
        image_size: Longer side of the network's input, a multiple of ``stride``.
        stride: The network's stride.
        batch_size: Largest number of images in a batch.
    """

    def load(start: int) -> Window:
        return _load_window(images[start : start + WINDOW], image_size, stride, batch_size)

    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
    try:
        with installing_nothing():
            starts = range(0, len(images), WINDOW)
            following = executor.submit(load, 0) if starts else None
            for start in starts:
                assert following is not None
                window = following.result()
                if start + WINDOW < len(images):
                    following = executor.submit(load, start + WINDOW)
                yield window
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _load_window(
    images: Sequence[LabelledImage], image_size: int, stride: int, batch_size: int
) -> Window:
    by_shape: dict[tuple[int, int], list[LoadedImage]] = {}
    corrupt = []
    for number, image in enumerate(images):
        pixels = read_image(image.path)
        if pixels is None:
            corrupt.append(image.name)
            continue
        letterbox = Letterbox.fit(pixels.shape[:2], image_size, stride)
        boxes, (edges,) = letterbox.boxes(image.boxes), letterbox.boxes(_WHOLE)
        loaded = LoadedImage(image, letterbox.apply(pixels), boxes, edges, number)
        by_shape.setdefault(letterbox.size, []).append(loaded)
    batches = tuple(
        tuple(group[start : start + batch_size])
        for group in by_shape.values()
        for start in range(0, len(group), batch_size)
    )
    return Window(len(images), batches, tuple(corrupt))


def read_image(file: Path) -> NDArray[np.uint8] | None:
    """Return the pixels ``[h, w, 3]`` uint8, blue-green-red, or None if they cannot be decoded."""
    patches = ultralytics_module("ultralytics.utils.patches")  # reads what YOLO.predict reads
    try:
        pixels: NDArray[np.uint8] | None = patches.imread(str(file))
    except MemoryError:
        raise
    except Exception:  # decoders raise all sorts of errors on damaged files
        return None
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape[2:] != (3,):
        return None
    return pixels


def to_input(batch: Sequence[LoadedImage], device: torch.device) -> Tensor:
    """Return the network's input ``[B, 3, H, W]`` float32 in 0..1, red-green-blue."""
    pixels = torch.from_numpy(np.stack([image.pixels for image in batch])).to(device)
    return pixels.permute(0, 3, 1, 2).contiguous().flip(1).float().div_(255)
