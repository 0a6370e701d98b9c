"""What a network is called with, and running it on shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map_only

from .answers import Answers, Listening, Telling


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """The arguments of a forward pass.

    Attributes:
        args: Positional ones.
        kwargs: Those by name.
        answers: What a network was told of the contents of its tensors when it ran on them.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    answers: Answers = field(default_factory=dict)

    @classmethod
    def cat(cls, parts: Sequence[ModelInputs]) -> ModelInputs:
        """Return the inputs of several batches as those of one; the first's where of no sample.

        Raises:
            RuntimeError: If their shapes do not fit.
        """
        columns = zip(*(part.tensors() for part in parts), strict=True)
        joined = iter(
            [
                torch.cat(column) if parts[0].is_of_samples(column[0]) else column[0]
                for column in columns
            ]
        )
        return parts[0].map(lambda _: next(joined))

    def run(self, model: nn.Module) -> Any:
        """Return what a network makes of them."""
        return model(*self.args, **self.kwargs)

    def with_answers_of(self, model: nn.Module) -> ModelInputs:
        """Run a network on them and return them with what it was told."""
        listening = Listening()
        with unfused(), listening:
            self.run(model)
        return replace(self, answers=listening.answers)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(next(tensor for tensor in self.tensors() if tensor.ndim))

    def is_of_samples(self, tensor: Tensor) -> bool:
        """Return whether a tensor among them has as many entries as there are samples."""
        return tensor.ndim > 0 and len(tensor) == len(self)

    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors among them."""
        return (leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor))

    def first(self, count: int) -> ModelInputs:
        """Return them with the first samples of all tensors that have as many entries."""
        return self.map(lambda x: x[:count] if self.is_of_samples(x) else x)

    def to(self, device: torch.device | str) -> ModelInputs:
        """Return them with all tensors on ``device``."""
        return self.map(lambda x: x.to(device, non_blocking=True))

    def map(self, change: Callable[[Tensor], Tensor]) -> ModelInputs:
        """Return them with all tensors changed."""
        args, kwargs = tree_map_only(Tensor, change, (self.args, dict(self.kwargs)))
        return ModelInputs(args, kwargs)


def first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what a module reads: its first argument, by place or by name; None if it has none."""
    return args[0] if args else next(iter(kwargs.values()), None)


@contextmanager
def unfused() -> Iterator[None]:
    """Keep attention from being one operation, which hides what becomes of the channels."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class Rehearsal:
    """A network and its inputs without their contents: it can be run to see shapes, at no cost.

    Attributes:
        model: A copy of the network, of PyTorch's fake tensors; its weights are not copied.
    """

    def __init__(self, model: nn.Module, inputs: ModelInputs, *, training: bool = False) -> None:
        """Copy a network."""
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        copies: dict[int, Any] = {}
        for tensor in (*model.parameters(), *model.buffers()):
            fake = self._mode.from_tensor(tensor.detach())
            is_parameter = isinstance(tensor, nn.Parameter)
            copies[id(tensor)] = nn.Parameter(fake, requires_grad=False) if is_parameter else fake
        self.model = deepcopy(model, copies).train(training)
        self._inputs = inputs.map(self._mode.from_tensor)
        self._answers = {} if training else inputs.answers  # in training it may ask others

    def run(self, watched_by: AbstractContextManager[Any] | None = None) -> Any:
        """Return what the network makes of its inputs, under a dispatch mode if one is given."""
        with self._mode, Telling(self._answers), unfused(), watched_by or nullcontext():
            return self._inputs.run(self.model)
