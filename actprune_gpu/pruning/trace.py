"""Finding out which channels of a network are one channel, and must go together.

The network runs once on PyTorch's ``meta`` device, and every channel of every tensor carries a
number along. A convolution makes new numbers; normalization, activations, pooling and upsampling
pass them on; a concatenation strings them together; a sum makes those of its operands the same.
Whatever is unknown holds its channels fast. So nothing has to be known of the blocks that a network
is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .graph import CONVOLUTIONS, ChannelGraph, Channels
from .grouping import Run, assemble

# Operations that treat every channel by itself and keep their order.
_CHANNELWISE = {
    *("detach", "alias", "clone", "contiguous", "_to_copy", "lift_fresh", "constant_pad_nd"),
    *("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d"),
    *("upsample_nearest2d", "upsample_bilinear2d", "_upsample_nearest_exact2d"),
    *("native_dropout", "upsample_bicubic2d"),
}


def trace_channels(
    model: nn.Module,
    example: Tensor,
    *,
    predicting: nn.Module | None = None,
    outputs: Callable[[Any], Any] = lambda result: result,
    holds: Callable[[nn.Module], bool] = lambda module: False,
    layer_of: Callable[[str], str] = lambda name: name,
) -> ChannelGraph:
    """Find out which channels of a network belong together. The model is not changed.

    Args:
        model: The network. It runs in training mode, in which all of its branches do, and once
            more as it predicts.
        example: An input on the model's device; a small one will do.
        predicting: The network as it predicts, if it then lacks modules; the others keep their
            names.
        outputs: Picks out of the network's result what is read by others: its channels must stay.
        holds: Whether a module fixes the number of its input and output channels itself.
        layer_of: The block that a convolution is part of, by names.

    Returns:
        The graph; its uses point to the modules of ``model``.
    """
    positions = _positions(deepcopy(predicting or model).eval(), example)
    copy = deepcopy(model).to("meta").train().requires_grad_(False)
    tracer = _Tracer(copy)
    for name, module in copy.named_modules():
        module.register_forward_pre_hook(tracer.entering(name))
        module.register_forward_hook(tracer.leaving(holds(module)))
        if holds(module):
            module.register_forward_pre_hook(tracer.holding)
    with tracer:
        result = copy(example.to("meta"))
    tracer.hold(outputs(result), "the network puts them out")
    modules = dict(model.named_modules())
    counted = [modules[name] for name in tracer.runs]
    inside = {id(p) for module in counted for p in module.parameters()}
    return assemble(
        tracer.runs,
        modules,
        positions,
        layer_of,
        same_as=tracer.same_as(),
        splits=tracer.splits,
        held=tracer.held,
        other_parameters=sum(p.numel() for p in model.parameters() if id(p) not in inside),
    )


def _positions(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Return at how many places a network applies each of its convolutions."""
    positions: dict[str, int] = {}

    def count(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            map_ = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
            positions[name] = positions.get(name, 0) + map_[:, 0].numel()

        return hook

    for name, module in model.named_modules():
        if isinstance(module, CONVOLUTIONS):
            module.register_forward_hook(count(name))
    with torch.no_grad():
        model(example)
    return positions


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the channels through the operations of a network."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.runs: dict[str, Run] = {}
        self.splits: list[list[Channels]] = []
        self.held: dict[int, str] = {}
        self._owners: dict[int, str] = {}
        for name, module in model.named_modules():
            if isinstance(module, (*CONVOLUTIONS, nn.BatchNorm2d)):
                for tensor in (module.weight, getattr(module, "running_mean", None)):
                    if tensor is not None:
                        self._owners[id(tensor)] = name
        # A tensor keeps its number alive, and its id taken, as long as the trace lasts.
        self._channels: dict[int, tuple[Tensor, Channels]] = {}
        self._parent: list[int] = []
        self._where: list[str] = []

    def same_as(self) -> Channels:
        """Return ``[N]``: for every number given, one that stands for all that are the same."""
        return np.array([self._find(number) for number in range(len(self._parent))])

    def entering(self, name: str) -> Callable[[nn.Module, Any], None]:
        """Return the hook that notes which module runs."""

        def hook(module: nn.Module, inputs: Any) -> None:
            self._where.append(name)

        return hook

    def leaving(self, holds: bool) -> Callable[[nn.Module, Any, Any], None]:
        """Return the hook that notes that a module is done."""

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if holds:
                self.hold(output, f"{type(module).__name__} fixes their number")
            self._where.pop()

        return hook

    def holding(self, module: nn.Module, inputs: Any) -> None:
        """Hold what goes into a module: a hook."""
        self.hold(inputs, f"{type(module).__name__} fixes their number")

    def hold(self, value: Any, reason: str) -> None:
        """Hold fast the channels of all tensors in ``value``."""
        for tensor in _tensors(value):
            if id(tensor) in self._channels:
                for number in self._channels[id(tensor)][1].tolist():
                    self.held.setdefault(number, reason)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("convolution", "native_batch_norm", "split", "split_with_sizes", "cat"):
            getattr(self, f"_{name}")(args, result)
        elif name in _CHANNELWISE and not kwargs:
            self._pass_on(args[:1], result if isinstance(result, Tensor) else result[0], name)
        elif torch.Tag.pointwise in func.tags and isinstance(result, Tensor):
            self._pass_on(args, result, name)
        elif any(id(tensor) in self._channels for tensor in _tensors((args, kwargs))):
            self._unknown((args, kwargs), name)
        return result

    def _new(self, count: int) -> Channels:
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def _find(self, number: int) -> int:
        while self._parent[number] != number:
            self._parent[number] = self._parent[self._parent[number]]
            number = self._parent[number]
        return number

    def _unite(self, first: Channels, second: Channels) -> None:
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            low, high = sorted((self._find(a), self._find(b)))
            self._parent[high] = low

    def _of(self, tensor: Tensor) -> Channels:
        """Return the channels of a tensor; those that nobody has numbered stay."""
        if id(tensor) not in self._channels:
            self._set(tensor, self._new(tensor.shape[1]))
            self.hold(tensor, "they come from outside of the convolutions")
        return self._channels[id(tensor)][1]

    def _set(self, tensor: Tensor, numbers: Channels) -> None:
        self._channels[id(tensor)] = (tensor, numbers)

    def _unknown(self, value: Any, name: str) -> None:
        where = next((name for name in reversed(self._where) if name), "the network")
        self.hold(value, f"{where} uses them in {name}, which is not followed")

    def _pass_on(self, args: Sequence[Any], result: Tensor, name: str) -> None:
        """Channel by channel: the operands' channels become one."""
        numbered = [x for x in _tensors(args) if id(x) in self._channels]
        if not numbered:
            return
        # Operands of one number (a scalar, or one for each image) do not tie channels.
        others = [x for x in _tensors(args) if x.ndim and id(x) not in self._channels]
        same = all(x.ndim == result.ndim and x.shape[1] == result.shape[1] for x in numbered)
        if not same or any(x.ndim != result.ndim or x.shape[1] != 1 for x in others):
            self._unknown(args, name)
            return
        channels = self._of(numbered[0])
        for tensor in numbered[1:]:
            self._unite(channels, self._of(tensor))
        self._set(result, channels)

    def _record(self, weight: Tensor | None, inputs: Channels, outputs: Channels) -> bool:
        name = self._owners.get(id(weight))
        if name is None:
            return False
        if name in self.runs:  # a module that runs twice has one set of channels
            self._unite(self.runs[name].inputs, inputs)
            self._unite(self.runs[name].outputs, outputs)
        else:
            self.runs[name] = Run(inputs, outputs)
        return True

    def _convolution(self, args: tuple[Any, ...], result: Tensor) -> None:
        x, weight, groups = args[0], args[1], args[8]
        inputs = self._of(x)
        if groups == x.shape[1] == result.shape[1] > 1:
            outputs = inputs
        else:
            outputs = self._new(result.shape[1])
        self._set(result, outputs)
        if groups > 1 and outputs is not inputs:
            self.hold((x, result), f"a convolution has {groups} groups")
        if not self._record(weight, inputs, outputs):
            self._unknown((x, result), "a convolution without a module")

    def _native_batch_norm(self, args: tuple[Any, ...], result: Any) -> None:
        channels = self._of(args[0])
        self._set(result[0], channels)
        weight = args[1] if args[1] is not None else args[3]
        if not self._record(weight, channels, channels):
            self._unknown(args[0], "a normalization without a module")

    def _split(self, args: tuple[Any, ...], result: Any) -> None:
        x, dim = args[0], args[2] if len(args) > 2 else 0
        if id(x) not in self._channels:
            return
        if dim % x.ndim == 1:
            parts = np.split(self._of(x), np.cumsum([part.shape[1] for part in result])[:-1])
            self.splits.append(parts)
        else:
            parts = [self._of(x)] * len(result)
        for part, numbers in zip(result, parts, strict=True):
            self._set(part, numbers)

    _split_with_sizes = _split

    def _cat(self, args: tuple[Any, ...], result: Tensor) -> None:
        parts, dim = args[0], args[1] if len(args) > 1 else 0
        if not any(id(part) in self._channels for part in parts):
            return
        if dim % result.ndim == 1:
            self._set(result, np.concatenate([self._of(part) for part in parts]))
        else:
            self._pass_on(parts, result, "cat")


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
