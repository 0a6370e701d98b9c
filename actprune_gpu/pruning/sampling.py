"""Cells of feature maps to learn from, and what a convolution sees at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Cells = tuple[Tensor, Tensor, Tensor]  # image, y and x of each, [S] int64


@dataclass(frozen=True, eq=False)
class Calibration:
    """The images that a network is repaired on.

    Attributes:
        images: ``[B, 3, H, W]`` float32, as the network takes them.
        content: ``[B, 4]`` float32, (left, top, right, bottom) of what is not padding, in pixels.
    """

    images: Tensor
    content: Tensor

    def cells(self, size: tuple[int, int], n_cells: int, *, seed: int = 0) -> Cells:
        """Draw cells of maps ``[B, C, *size]`` without repetition, in order; none of padding.

        Args:
            size: (height, width) of the maps.
            n_cells: How many; fewer if there are not that many.
            seed: Of the draw.
        """
        height, width = size
        device = self.images.device
        down, across = self.images.shape[2] / height, self.images.shape[3] / width
        y = (torch.arange(height, device=device) + 0.5) * down
        x = (torch.arange(width, device=device) + 0.5) * across
        left, top, right, bottom = (self.content[:, k, None].to(device) for k in range(4))
        inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]
        found = inside.flatten().nonzero().flatten()
        if len(found) > n_cells:
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randperm(len(found), generator=generator)[:n_cells]
            found = found[drawn.sort().values.to(device)]
        return found // (height * width), found // width % height, found % width


def patches(map_: Tensor, convolution: Any, cells: Cells) -> Tensor:
    """Return what a convolution sees of ``[B, C, H, W]`` at cells of its output.

    Returns:
        ``[S, C * taps]``, in the order of the convolution's flattened filters.
    """
    (down, across), (step_y, step_x) = convolution.padding, convolution.stride
    (height, width), (dilation_y, dilation_x) = convolution.kernel_size, convolution.dilation
    n, y, x = cells
    if height * width == 1 and not down and not across:
        return map_[n, :, y * step_y, x * step_x]
    rows = functional.pad(map_, (across, across, down, down)).permute(0, 2, 3, 1)
    taps = [
        rows[n, y * step_y + i * dilation_y, x * step_x + j * dilation_x]
        for i in range(height)
        for j in range(width)
    ]
    return torch.stack(taps, dim=2).flatten(1)
