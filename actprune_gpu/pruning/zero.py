"""Zeroing channels: the shapes stay, the dropped channels put out exactly 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..arrays import Array, to_tensor
from ..errors import InputError
from .graph import ChannelGraph, Use


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
        _silence_activation(block, channels, conv.out_channels)


def _silence_activation(block: nn.Module, channels: Tensor, width: int) -> None:
    """Put a mask behind an activation that does not map 0 to 0."""
    activation = getattr(block, "act", None)
    if activation is None:
        return
    weight = next(block.parameters())
    at_zero = activation(weight.new_zeros(1, width, 1, 1))[0, channels, 0, 0]
    if not at_zero.any():
        return
    mask = nn.Conv2d(width, width, 1, groups=width, bias=False).to(weight)
    mask.weight.fill_(1.0)
    mask.weight[channels] = 0.0
    block.act = nn.Sequential(activation, mask)


def expand_channels(
    original: nn.Module, reduced: nn.Module, graph: ChannelGraph, stays: NDArray[np.bool_]
) -> None:
    """Put a network without some channels back into the shapes that it had before, in place.

    Every number of the reduced network goes to its old place in the original one. Of the channels
    that are missing, weights and biases become 0, and where an activation does not map 0 to 0 a
    mask follows it. So both networks compute the same.

    Args:
        original: The network as it was, which is changed.
        reduced: It without channels, and possibly repaired.
        graph: Of the original.
        stays: ``[n_channels]``, which channels the reduced network has.
    """
    shrunk: dict[str, Any] = dict(reduced.named_modules())
    modules = dict(original.named_modules())
    writer_of: dict[str, Use] = {}
    with torch.no_grad():
        for use in graph.uses.values():
            inputs, outputs = (
                torch.from_numpy(np.flatnonzero(stays[channels]))
                for channels in (use.inputs, use.outputs)
            )
            _expand(use, shrunk[use.name], inputs, outputs)
            if use.is_convolution:
                writer_of[use.layer] = use
        for layer, last in writer_of.items():
            dropped = torch.from_numpy(np.flatnonzero(~stays[last.outputs]))
            if len(dropped) and layer != last.name:  # else a block, whose outputs others read
                _silence_activation(modules[layer], dropped, len(last.outputs))


def _expand(use: Use, reduced: Any, inputs: Tensor, outputs: Tensor) -> None:
    module: Any = use.module
    lost = torch.ones(len(use.outputs), dtype=torch.bool)
    lost[outputs] = False
    was_given_a_bias = use.mixes and module.bias is None and reduced.bias is not None
    if was_given_a_bias:  # by repair
        module.bias = nn.Parameter(
            module.weight.new_zeros(len(use.outputs)), requires_grad=reduced.bias.requires_grad
        )
    for name in ("bias", "running_mean", "running_var"):
        if getattr(module, name, None) is not None:
            getattr(module, name)[outputs] = getattr(reduced, name)
    if module.weight is None:
        if module.running_mean is not None:
            module.running_mean[lost] = 0.0
    elif use.mixes:
        axis = use.output_axis
        # What reads a dropped channel ignores it: an activation may not map 0 to 0.
        module.weight.zero_()
        rows = module.weight.transpose(0, axis)
        rows[outputs[:, None], inputs] = reduced.weight.transpose(0, axis)
    else:
        module.weight[outputs] = reduced.weight
        module.weight[lost] = 0.0
    if getattr(module, "bias", None) is not None:
        module.bias[lost] = 0.0
