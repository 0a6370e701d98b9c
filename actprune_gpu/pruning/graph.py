"""The channels of a network: who writes and reads them, which may go, and what they cost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..errors import InputError
from .kinds import is_convolution, output_axis

Channels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Use:
    """A module with parameters, and the channels that it reads and writes.

    Attributes:
        name: Of the module.
        layer: Of the block that the module is part of, as users know it.
        module: A convolution, a linear layer, or what treats every channel by itself: a batch
            normalization, say.
        inputs: ``[C_in]`` channel numbers; those of ``outputs`` for a module that treats every
            channel by itself (depthwise convolutions, too).
        outputs: ``[C_out]`` channel numbers.
        positions: Places at which a convolution is applied to the example, all images together,
            when the network predicts; 0 if only training needs it.
        runs: How often the module runs when the network does.
    """

    name: str
    layer: str
    module: nn.Module
    inputs: Channels
    outputs: Channels
    positions: int
    runs: int = 1

    @property
    def mixes(self) -> bool:
        """Whether the module makes new channels out of others."""
        return self.is_convolution and getattr(self.module, "groups", 1) == 1

    @property
    def is_convolution(self) -> bool:
        """Whether the module is a convolution, or a linear layer."""
        return is_convolution(self.module)

    @property
    def output_axis(self) -> int:
        """Along which axis the weights have the outputs; the inputs are along the other one."""
        return output_axis(self.module) if self.mixes else 0


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that one selection decides on.

    Attributes:
        name: The first layer that writes them, with the range of its channels where it writes
            others besides: ``"model.4.cv1[32:64]"``.
        channels: ``[C]`` channel numbers.
        members: For every layer that puts them out, in running order, which of its output channels
            they are, ``[C]``; ``[C, R]`` where each is R of them, as with the heads of attention.
            Sums make channels of several layers the same.
        active: Whether they are used when the network predicts; else only training needs them.
    """

    name: str
    channels: Channels
    members: Mapping[str, Channels]
    active: bool

    @property
    def n_channels(self) -> int:
        """C, the number of channels."""
        return len(self.channels)


@dataclass(frozen=True, eq=False)
class Heads:
    """A module of attention, and its heads.

    Attributes:
        name: Of the module.
        module: It.
        channels: ``[H]`` channel number of each head.
    """

    name: str
    module: nn.Module
    channels: Channels


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        parameters: Number of all parameters.
        flops: Floating point operations of the convolutions for the example, a multiplication and
            an addition counted as two.
    """

    parameters: int
    flops: int


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """The channels of a network and who uses them.

    Attributes:
        uses: Every convolution and batch normalization that ran, in running order.
        groups: The channels that may go, in running order.
        twins: Names of groups that must keep equally many channels: the parts of a split.
        held: For every layer with output channels that must stay, why.
        other_parameters: Number of parameters outside of ``uses``.
        other_flops: Operations of convolutions and linear layers outside of them.
        heads: Where channels are laid out as the heads of attention.
        normalized: For convolutions whose outputs nothing but one batch normalization reads, that.
        biased: Modules that are counted as if they had a bias.
    """

    uses: Mapping[str, Use]
    groups: tuple[ChannelGroup, ...]
    twins: tuple[tuple[str, ...], ...]
    held: Mapping[str, str]
    other_parameters: int
    other_flops: int
    heads: tuple[Heads, ...] = ()
    normalized: Mapping[str, str] = field(default_factory=dict)
    biased: frozenset[str] = frozenset()

    def on(self, model: nn.Module) -> ChannelGraph:
        """Return the graph of another network with the same modules, such as a copy."""
        modules = dict(model.named_modules())
        uses = {name: replace(use, module=modules[name]) for name, use in self.uses.items()}
        heads = tuple(replace(each, module=modules[each.name]) for each in self.heads)
        return replace(self, uses=uses, heads=heads)

    def without(self, reasons: Mapping[str, str]) -> ChannelGraph:
        """Return the graph with some groups held fast, by name, each for its reason."""
        held = dict(self.held)
        for name, reason in reasons.items():
            for layer in self[name].members:
                held.setdefault(layer, reason)
        groups = tuple(group for group in self.groups if group.name not in reasons)
        twins = tuple(parts for parts in self.twins if not set(parts) & set(reasons))
        return replace(self, groups=groups, twins=twins, held=held)

    def with_biases(self) -> ChannelGraph:
        """Return the graph that counts the biases that repair may add."""
        names = {
            use.name
            for use in self.uses.values()
            if use.mixes and use.positions and use.name not in self.normalized
        }
        return replace(self, biased=frozenset(names))

    def __getitem__(self, name: str) -> ChannelGroup:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, ChannelGroup]:
        return {group.name: group for group in self.groups}

    @cached_property
    def n_channels(self) -> int:
        """Number of different channels."""
        return 1 + max(int(max(use.inputs.max(), use.outputs.max())) for use in self.uses.values())

    def with_twins(self, names: Iterable[str]) -> list[str]:
        """Return groups, and after them all others that must keep as many channels as these."""
        together = list(names)
        for name in together:  # grows while it is read: a group may have several twins
            for parts in self.twins:
                if name in parts:
                    together += [part for part in parts if part not in together]
        return together

    def kept(self, keep: Mapping[str, Iterable[int]]) -> NDArray[np.bool_]:
        """Return ``[n_channels]``, which channels stay if each group keeps ``keep[its name]``.

        Groups that are not mentioned keep all. The channels are numbers within the group.

        Raises:
            InputError: If a group is unknown, keeps no channel or one that it does not have, or if
                twins differ in how many they keep.
        """
        stays = np.ones(self.n_channels, dtype=bool)
        sizes = {group.name: group.n_channels for group in self.groups}
        for name, numbers in keep.items():
            if name not in sizes:
                raise InputError(f"keep names {name}, which is no group of channels of this model")
            kept = np.unique(np.asarray(list(numbers), dtype=np.int64))
            if not len(kept) or kept[0] < 0 or kept[-1] >= sizes[name]:
                raise InputError(
                    f"keep of {name} must hold channels in 0..{sizes[name] - 1}, "
                    f"got {kept.tolist()}"
                )
            stays[self[name].channels] = False
            stays[self[name].channels[kept]] = True
            sizes[name] = len(kept)
        for parts in self.twins:
            if len({sizes[name] for name in parts}) > 1:
                raise InputError(
                    f"{' and '.join(parts)} must keep equally many channels, the network splits "
                    f"them in equal parts, got {' and '.join(str(sizes[name]) for name in parts)}"
                )
        return stays

    def cost(self, stays: NDArray[np.bool_]) -> Cost:
        """Return what the network costs if only the channels ``stays [n_channels]`` remain."""
        costs = self._costs
        before = np.concatenate([[0], np.cumsum(stays[costs.channels])])
        n_in, n_out = np.diff(before[costs.bounds]).reshape(-1, 2).T
        weights = n_out * np.where(costs.fixed > 0, costs.fixed, n_in) * costs.taps
        return Cost(
            parameters=self.other_parameters + int((weights + n_out * costs.biases).sum()),
            flops=self.other_flops + 2 * int((weights * costs.positions).sum()),
        )

    @cached_property
    def _costs(self) -> _Costs:
        return _Costs.of(list(self.uses.values()), self.biased)


@dataclass(frozen=True, eq=False)
class _Costs:
    """What modules cost, as arrays: a budget asks a thousand times.

    Attributes:
        channels: The inputs of the first module, its outputs, the inputs of the second, ...
        bounds: ``[2 U + 1]``, where each of these begins, and the end.
        fixed: ``[U]``, inputs that make an output; 0 where that is all of them that there are.
        taps: ``[U]``, weights for each input and output.
        biases: ``[U]``, for each output.
        positions: ``[U]``, at which a convolution is applied; 0 for a normalization.
    """

    channels: Channels
    bounds: NDArray[np.int64]
    fixed: NDArray[np.int64]
    taps: NDArray[np.int64]
    biases: NDArray[np.int64]
    positions: NDArray[np.int64]

    @classmethod
    def of(cls, uses: Sequence[Use], biased: Collection[str]) -> _Costs:
        sides = [side for use in uses for side in (use.inputs, use.outputs)]
        rows = []
        for use in uses:
            module: Any = use.module
            fixed, taps, positions = 1, int(_is_parameter(module, "weight")), 0
            if use.is_convolution:
                fixed = 0 if use.mixes else module.in_channels // module.groups
                taps, positions = module.weight[0, 0].numel(), use.positions
            has_bias = _is_parameter(module, "bias") or use.name in biased
            rows.append((fixed, taps, has_bias, positions))
        return cls(
            np.concatenate(sides),
            np.cumsum([0, *map(len, sides)]),
            *np.array(rows, dtype=np.int64).T,
        )


def _is_parameter(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), nn.Parameter)
