"""Removing channels: the tensors shrink, the classes of the modules stay what they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .graph import ChannelGraph, Use

# What modules of attention call the number of their heads, and the width of all of them together.
_HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "heads")
_HEAD_WIDTHS = ("attn_dim", "all_head_size", "inner_dim")


def remove_channels(graph: ChannelGraph, stays: NDArray[np.bool_]) -> None:
    """Take channels out of the modules that ``graph`` was traced from, in place.

    Weights, biases, statistics and the modules' own account of their width shrink; gradients are
    dropped. The graph describes the network as it was before and is of no use afterwards.

    Args:
        graph: Of the network.
        stays: ``[n_channels]``, which channels remain, from `ChannelGraph.kept`.
    """
    with torch.no_grad():
        for use in graph.uses.values():
            inputs, outputs = (
                torch.from_numpy(np.flatnonzero(stays[channels]))
                for channels in (use.inputs, use.outputs)
            )
            if len(inputs) == len(use.inputs) and len(outputs) == len(use.outputs):
                continue
            if use.is_convolution:
                _shrink_convolution(use, inputs, outputs)
            else:
                _shrink_channelwise(use.module, outputs)
        for heads in graph.heads:
            numbers = heads.channels
            _shrink_heads(heads.module, len(numbers), int(stays[numbers].sum()))


def _shrink_heads(module: nn.Module, before: int, after: int) -> None:
    """Change what a module of attention remembers of the number of its heads.

    Many remember nothing and take it from the size of what they get.
    """
    settings = vars(module)
    widths = {
        name: settings[name] // before * after
        for name in _HEAD_WIDTHS
        if type(settings.get(name)) is int and settings[name] % before == 0
    }
    counts = {name: after for name in _HEAD_COUNTS if settings.get(name) == before}
    for name, value in (widths | counts).items() if counts else ():
        setattr(module, name, value)


def _shrink_convolution(use: Use, inputs: Tensor, outputs: Tensor) -> None:
    module: Any = use.module
    if use.mixes:
        _select(module, "weight", inputs, 1 - use.output_axis)
        _select(module, "weight", outputs, use.output_axis)
        _note_width(module, ("in_channels", "in_features", "nx"), len(inputs))
    elif module.groups == module.out_channels:  # depthwise: a filter of one channel for each
        _select(module, "weight", outputs, 0)
        module.groups = module.in_channels = len(outputs)
    _select(module, "bias", outputs)
    _note_width(module, ("out_channels", "out_features", "nf"), len(outputs))


def _shrink_channelwise(module: nn.Module, outputs: Tensor) -> None:
    for name in ("weight", "bias", "running_mean", "running_var"):
        _select(module, name, outputs)
    _note_width(module, ("num_features", "num_parameters"), len(outputs))


def _note_width(module: nn.Module, names: Sequence[str], width: int) -> None:
    """Set what a module calls its number of channels."""
    for name in names:
        if hasattr(module, name):
            setattr(module, name, width)


def _select(module: nn.Module, name: str, index: Tensor, axis: int = 0) -> None:
    """Keep some rows of a parameter or buffer."""
    old = getattr(module, name, None)
    if old is None:
        return
    new = old.detach().index_select(axis, index.to(old.device)).clone()
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(module, name, new)
