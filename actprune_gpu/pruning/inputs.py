"""What a network is called with, and running it on shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """The arguments of a forward pass.

    Attributes:
        args: Positional ones.
        kwargs: Those by name.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def run(self, model: nn.Module) -> Any:
        """Return what a network makes of them."""
        return model(*self.args, **self.kwargs)

    def to(self, device: torch.device | str) -> ModelInputs:
        """Return them with all tensors on ``device``."""
        args, kwargs = tree_map_only(
            Tensor, lambda x: x.to(device, non_blocking=True), (self.args, dict(self.kwargs))
        )
        return ModelInputs(args, kwargs)


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
        args, kwargs = tree_map_only(
            Tensor, self._mode.from_tensor, (inputs.args, dict(inputs.kwargs))
        )
        self._inputs = ModelInputs(args, kwargs)

    def run(self, watched_by: AbstractContextManager[Any] | None = None) -> Any:
        """Return what the network makes of its inputs, under a dispatch mode if one is given."""
        # Attention fused into one operation would hide what becomes of the channels.
        with self._mode, sdpa_kernel(SDPBackend.MATH), watched_by or nullcontext():
            return self._inputs.run(self.model)
