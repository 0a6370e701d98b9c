"""Whose a network's weights are, and at how many places it applies them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from . import operations
from .kinds import is_batch_norm, is_convolution


class WeightOwners:
    """Which module a parameter, or a view of it, is the weight of.

    Running means stand for normalizations without weights.
    """

    def __init__(self, model: nn.Module) -> None:
        # A tensor keeps its number alive, and its id taken, as long as this lasts.
        self._owners: dict[int, tuple[Tensor, str | None]] = {
            id(parameter): (parameter, None) for parameter in model.parameters()
        }
        for name, module in model.named_modules():
            if is_convolution(module) or is_batch_norm(module):
                for tensor in (module.weight, getattr(module, "running_mean", None)):
                    if tensor is not None:
                        self._owners[id(tensor)] = (tensor, name)

    def of(self, tensor: Any) -> str | None:
        """Return the name of the module, if there is one."""
        return self._owners[id(tensor)][1] if self.knows(tensor) else None

    def knows(self, tensor: Any) -> bool:
        """Return whether it is a parameter, or a view of one."""
        return id(tensor) in self._owners

    def follow(self, func: Any, args: Any, result: Any) -> bool:
        """Return whether an operation's result is a parameter still, and note it."""
        is_view = func.overloadpacket.__name__ in operations.WEIGHT_VIEWS and self.knows(args[0])
        if is_view:
            self._owners[id(result)] = (result, self.of(args[0]))
        return is_view


class Places(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts at how many places a network that runs applies its convolutions and linear layers.

    Not by their calls: some modules pass the weights of others to functions.

    Attributes:
        positions: By name of the module.
        other_flops: Operations with weights that are of no such module, as where they are computed
            first; a multiplication and an addition counted as two.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.positions: dict[str, int] = {}
        self.other_flops = 0
        self._owners = WeightOwners(model)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._owners.follow(func, args, result):
            self._count(operations.kind_of(func), args, result)
        return result

    def _count(self, kind: str | None, args: Any, result: Any) -> None:
        if kind == "convolution":
            weight, is_transposed = args[1], args[6]
            map_ = args[0] if is_transposed else result
            places, weight_size = map_.numel() // map_.shape[1], weight.numel()
        elif kind == "linear" or (kind == "products" and self._owners.knows(args[1])):
            x, weight = args[-2:]
            places = x.numel() // x.shape[-1]
            weight_size = weight.shape[-2] * weight.shape[-1]
        else:
            return
        owner = self._owners.of(weight)
        if owner is None:
            self.other_flops += 2 * places * weight_size
        else:
            self.positions[owner] = self.positions.get(owner, 0) + places


def sharing_modules(model: nn.Module) -> set[str]:
    """Return the names of modules with parameters or buffers that other modules have too."""
    tensors = {
        name: [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        for name, module in model.named_modules()
    }
    holders = Counter(id(tensor) for own in tensors.values() for tensor in own)
    return {name for name, own in tensors.items() if any(holders[id(x)] > 1 for x in own)}
