"""What is known of the channels of the tensors in a running network."""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from .graph import Channels
from .grouping import Run, Trace
from .numbers import Numbers, SameAs, tensors_in, varying


class Ledger:
    """The numbers of every tensor's channels, which of them are the same, and what holds them.

    Attributes:
        where: Names of the modules at work, from the network inwards.
        holding: Why those of them that fix the number of their channels do so.
        splits: Channels that were cut into parts, by part.
        views: Channels that were laid out along several axes, and by which module.
    """

    def __init__(self, sharing: set[str]) -> None:
        """Begin with nothing known; ``sharing`` are the modules that share parameters."""
        self.where: list[str] = []
        self.holding: list[str] = []
        self.splits: list[list[Channels]] = []
        self.views: list[tuple[str, Channels]] = []
        self._runs: dict[str, Run] = {}
        self._held: dict[int, str] = {}
        self._sharing = sharing
        self._same_as = SameAs()
        # A tensor keeps its id taken as long as this lasts.
        self._numbers: dict[int, tuple[Tensor, Numbers]] = {}
        # What convolutions put out, and the batch normalizations that read it; "" for any other.
        self._written: dict[int, tuple[Tensor, str]] = {}
        self._readers: dict[str, set[str]] = {}

    def trace(self) -> Trace:
        """Return what was found."""
        normalized = {
            name: reader
            for name, readers in self._readers.items()
            for reader in readers
            if reader and len(readers) == 1
        }
        return Trace(
            self._runs, self._same_as.roots(), self.splits, self.views, self._held, normalized
        )

    def knows(self, tensor: Any) -> TypeGuard[Tensor]:
        """Return whether a tensor's channels are numbered."""
        return isinstance(tensor, Tensor) and id(tensor) in self._numbers

    def numbers(self, tensor: Tensor) -> Numbers:
        """Return the numbers of a tensor that is known."""
        return self._numbers[id(tensor)][1]

    def note(self, tensor: Tensor, numbers: Numbers) -> None:
        """Note the numbers of a tensor."""
        self._numbers[id(tensor)] = (tensor, numbers)

    def note_along(self, tensor: Tensor, channels: Channels, dim: int) -> None:
        """Note the channels ``[C]`` of a tensor that has them along ``dim``."""
        shape = [size if d == dim % tensor.ndim else 1 for d, size in enumerate(tensor.shape)]
        self.note(tensor, torch.from_numpy(channels).reshape(shape))

    def new(self, count: int) -> Channels:
        """Return numbers for channels that begin here."""
        numbers = self._same_as.new(count)
        if self.holding:
            self._hold(numbers, self.holding[-1])
        return numbers

    def unite(self, first: Numbers, *others: Numbers) -> None:
        """Make numbers at the same places the same."""
        for other in others:
            self._same_as.unite(first, other)

    def given(self, tensor: Tensor, dim: int) -> Numbers:
        """Return a tensor's numbers; along ``dim``, and held fast, if it had none so far."""
        if not self.knows(tensor):
            self.note_along(tensor, self.new(tensor.shape[dim]), dim)
            self.hold(tensor, "they come from outside of the convolutions")
        return self.numbers(tensor)

    def along(self, tensor: Tensor, dim: int, name: str) -> Channels | None:
        """Return the channels of a tensor that has them along ``dim`` and nowhere else."""
        numbers = self.given(tensor, dim)
        if varying(numbers) - {dim % tensor.ndim}:
            self.unknown(tensor, name)
            return None
        # One number stands for all along an axis on which they do not differ.
        return np.array(numbers.flatten().expand(tensor.shape[dim]))

    def hold(self, value: Any, reason: str) -> None:
        """Hold fast the channels of all tensors in ``value``."""
        for tensor in tensors_in(value):
            if self.knows(tensor):
                with unset_fake_temporarily():  # the numbers are real
                    self._hold(self.numbers(tensor).flatten(), reason)

    def _hold(self, numbers: Channels | Numbers, reason: str) -> None:
        self._held.update(dict.fromkeys(numbers.tolist(), reason) | self._held)

    def unknown(self, value: Any, name: str) -> None:
        """Hold fast the channels of all tensors that an operation uses which is not followed."""
        where = next((name for name in reversed(self.where) if name), "the network")
        self.hold(value, f"{where} uses them in {name}, which is not followed")

    def read(self, value: Any, reader: str = "") -> None:
        """Note who reads the outputs of convolutions among the tensors in ``value``."""
        for tensor in tensors_in(value):
            if id(tensor) in self._written:
                self._readers.setdefault(self._written[id(tensor)][1], set()).add(reader)

    def width(self, name: str) -> int | None:
        """Return on how many channels a module has run; ``None`` if it has not."""
        return len(self._runs[name].inputs) if name in self._runs else None

    def record(
        self,
        owner: str | None,
        inputs: Channels,
        outputs: Channels,
        args: Any,
        name: str,
        result: Tensor | None = None,
    ) -> None:
        """Note that a module has run.

        Args:
            owner: The module, if there is one.
            inputs: The channels that it read.
            outputs: Those that it put out.
            args: The tensors of both.
            name: Of the operation.
            result: What it put out, if it is a convolution or linear layer.
        """
        if owner is None:
            self.unknown(args, f"{name} without a module")
            return
        if owner in self._sharing:  # what went from one would be missing in the other
            self.hold(args, f"{owner} shares its parameters with another module")
        if owner in self._runs:  # a module that runs twice has one set of channels
            before = self._runs[owner]
            before.times += 1
            if (len(before.inputs), len(before.outputs)) != (len(inputs), len(outputs)):
                for numbers in (before.inputs, before.outputs, inputs, outputs):
                    self._hold(numbers, f"{owner} runs on different widths")
                return
            self.unite(torch.from_numpy(before.inputs), torch.from_numpy(inputs))
            self.unite(torch.from_numpy(before.outputs), torch.from_numpy(outputs))
        else:
            self._runs[owner] = Run(inputs, outputs)
        if result is not None:
            self._written[id(result)] = (result, owner)
