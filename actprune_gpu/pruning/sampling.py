"""Places in feature maps to learn from, and what a convolution sees at them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..inputs import ModelInputs
from .kinds import is_linear

# The sample and the position of each place, [S] int64: n, y, x in an image, n, t in a sequence.
Cells = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a network is observed and repaired on.

    Attributes:
        inputs: Of all samples, as the network takes them; the samples are along the first axis of
            every tensor.
        content: ``[B, 4]`` float32, (left, top, right, bottom) of what is not padding, in pixels,
            if the first input is images ``[B, 3, H, W]`` with a padding.
    """

    inputs: ModelInputs
    content: Tensor | None = None

    @classmethod
    def of_images(cls, images: Tensor, content: Tensor) -> Calibration:
        """Return the calibration on padded images."""
        return cls(ModelInputs((images,)), content)

    @property
    def images(self) -> Tensor:
        """The first of the inputs."""
        return next(self.inputs.tensors())

    def __len__(self) -> int:
        """Return B, the number of samples."""
        return len(self.inputs)

    def first(self, count: int) -> Calibration:
        """Return the first samples."""
        content = None if self.content is None else self.content[:count]
        return Calibration(self.inputs.first(count), content)

    def cells(self, size: Sequence[int], n_cells: int, *, seed: int = 0) -> Cells:
        """Draw places without repetition, in order; none of padding.

        Args:
            size: Samples, and positions along each axis, of the maps: (B, H, W) of images.
            n_cells: How many; fewer if there are not that many.
            seed: Of the draw.
        """
        device = self.images.device
        if self.content is not None and len(size) == 3:
            found = self._inside(size[1], size[2]).flatten().nonzero().flatten()
        else:
            found = torch.arange(math.prod(size), device=device)
        if len(found) > n_cells:
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randperm(len(found), generator=generator)[:n_cells]
            found = found[drawn.sort().values.to(device)]
        return torch.unravel_index(found, tuple(size))

    def _inside(self, height: int, width: int) -> Tensor:
        """Return ``[B, height, width]``: which cells of maps of that size show no padding."""
        assert self.content is not None
        device = self.images.device
        down, across = self.images.shape[2] / height, self.images.shape[3] / width
        y = (torch.arange(height, device=device) + 0.5) * down
        x = (torch.arange(width, device=device) + 0.5) * across
        left, top, right, bottom = (self.content[:, k, None].to(device) for k in range(4))
        rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
        return rows[:, :, None] & columns[:, None, :]


def channel_axis(module: nn.Module) -> int:
    """Return along which axis a module has its channels."""
    return -1 if is_linear(module) else 1


def positions_of(map_: Tensor, module: nn.Module) -> tuple[int, ...]:
    """Return the samples and positions of what a module reads or puts out."""
    return tuple(map_.movedim(channel_axis(module), -1).shape[:-1])


def rows_at(map_: Tensor, cells: Cells, module: nn.Module) -> Tensor:
    """Return ``[S, C]``, the channels of what a module reads or puts out at some places."""
    return map_.movedim(channel_axis(module), -1)[cells]


def patches(map_: Tensor, convolution: Any, cells: Cells) -> Tensor:
    """Return what a convolution or linear layer sees of its input at places of its output.

    Returns:
        ``[S, C * taps]``, in the order of the convolution's flattened filters.
    """
    if is_linear(convolution):
        return rows_at(map_, cells, convolution)
    padding = _padding(convolution)
    n, *at = cells
    corners = [place * step for place, step in zip(at, convolution.stride, strict=True)]
    if math.prod(convolution.kernel_size) == 1 and not any(padding):
        return rows_at(map_, (n, *corners), convolution)
    mode = convolution.padding_mode
    rows = functional.pad(map_, padding, "constant" if mode == "zeros" else mode).movedim(1, -1)
    taps = []
    for tap in product(*map(range, convolution.kernel_size)):
        offsets = [t * dilation for t, dilation in zip(tap, convolution.dilation, strict=True)]
        taps.append(rows[n, *(corner + by for corner, by in zip(corners, offsets, strict=True))])
    return torch.stack(taps, dim=2).flatten(1)


def _padding(convolution: Any) -> list[int]:
    """Return by how many cells a convolution pads: before and after, the last axis first."""
    sides: list[int] = []
    for axis in reversed(range(len(convolution.kernel_size))):
        before = after = 0
        if convolution.padding == "same":
            whole = convolution.dilation[axis] * (convolution.kernel_size[axis] - 1)
            before, after = whole // 2, whole - whole // 2
        elif convolution.padding != "valid":
            before = after = convolution.padding[axis]
        sides += [before, after]
    return sides
