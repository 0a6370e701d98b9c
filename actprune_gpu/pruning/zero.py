"""Zeroing channels: the shapes stay, the dropped channels put out exactly 0."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..arrays import Array, to_tensor
from ..errors import InputError


def zero_channels(block: nn.Module, drop: Array) -> None:
    """Make channels of a convolution block put out exactly 0, in place.

    Zeroes weight and bias of the convolution and of the BatchNorm behind it. The BatchNorm's bias
    must go too: else the channel still puts out a constant. Where the activation does not map 0 to
    0 (a sigmoid, say), a depthwise convolution with weights 0 and 1 is put behind it.

    Args:
        block: Something with a ``conv`` (`nn.Conv2d`) and, possibly, a ``bn`` (`nn.BatchNorm2d`)
            and an ``act``, in that order, such as Ultralytics' ``Conv``; or an `nn.Conv2d` alone.
        drop: ``[D]`` distinct channel numbers.

    Raises:
        InputError: If ``block`` is no such block or a channel is out of range; nothing is changed.
    """
    conv = block if isinstance(block, nn.Conv2d) else getattr(block, "conv", None)
    if not isinstance(conv, nn.Conv2d):
        raise InputError(f"block must have a convolution, got {type(block).__name__}")
    channels = to_tensor(drop, "drop", "[D]", torch.int64).to(conv.weight.device)
    if channels.numel() == 0:
        return
    if int(channels.min()) < 0 or int(channels.max()) >= conv.out_channels:
        raise InputError(
            f"drop must hold channels in 0..{conv.out_channels - 1}, "
            f"got {int(channels.min())}..{int(channels.max())}"
        )
    norm = getattr(block, "bn", None)
    with torch.no_grad():
        for module in (conv, norm):
            for parameter in (getattr(module, "weight", None), getattr(module, "bias", None)):
                if parameter is not None:
                    parameter[channels] = 0.0
        _silence_activation(block, channels, conv)


def _silence_activation(block: nn.Module, channels: Tensor, conv: nn.Conv2d) -> None:
    """Put a mask behind an activation that does not map 0 to 0."""
    activation = getattr(block, "act", None)
    if activation is None:
        return
    image = torch.zeros(1, conv.out_channels, 1, 1, dtype=conv.weight.dtype)
    at_zero = activation(image.to(conv.weight.device))[0, channels, 0, 0]
    if not at_zero.any():
        return
    mask = nn.Conv2d(
        conv.out_channels, conv.out_channels, 1, groups=conv.out_channels, bias=False
    ).to(conv.weight)
    mask.weight.fill_(1.0)
    mask.weight[channels] = 0.0
    block.act = nn.Sequential(activation, mask)
