"""Finding out which channels of a network are one channel, and must go together.

The network runs once on PyTorch's fake tensors, which have shapes alone, and every channel of every
tensor carries a number along. A convolution or a linear layer makes new numbers; normalization,
activations, pooling and upsampling pass them on; views and permutations move them; a concatenation
strings them together; a sum makes those of its operands the same; and a product of matrices, as in
attention, those of a head. Whatever is unknown holds its channels fast. So nothing has to be known
of the blocks that a network is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from ..inputs import ModelInputs, Rehearsal, first_input
from . import operations
from .graph import ChannelGraph
from .grouping import assemble
from .kinds import is_batch_norm, is_channelwise, is_convolution, is_normalization
from .ledger import Ledger
from .numbers import broadcast, compressed, full, tensors_in, varying
from .places import Places, WeightOwners, sharing_modules


def trace_channels(
    model: nn.Module,
    example: ModelInputs | Tensor,
    *,
    training: bool = False,
    predicting: nn.Module | None = None,
    outputs: Callable[[Any], Any] = lambda result: result,
    holds: Callable[[nn.Module], bool] = lambda module: False,
    layer_of: Callable[[str], str] = lambda name: name,
) -> ChannelGraph:
    """Find out which channels of a network belong together. The model is not changed.

    Args:
        model: The network.
        example: Inputs; small ones will do.
        training: Trace it in training mode, if only then all of its branches run.
        predicting: The network as it predicts, if it then lacks modules; the others keep their
            names. It really runs.
        outputs: Picks out of the network's result what is read by others: its channels must stay.
        holds: Whether a module fixes the number of its channels itself.
        layer_of: The block that a convolution is part of, by names.

    Returns:
        The graph; its uses point to the modules of ``model``.
    """
    example = ModelInputs((example,)) if isinstance(example, Tensor) else example
    rehearsal = Rehearsal(model, example, training=training)
    network = rehearsal.model if predicting is None else deepcopy(predicting).eval()
    places = Places(network)
    if predicting is None:
        rehearsal.run(places)
    else:
        with torch.no_grad(), places:
            example.run(network)
    ledger = Ledger(sharing_modules(rehearsal.model))
    tracer = _Tracer(rehearsal.model, ledger)
    for name, module in rehearsal.model.named_modules():
        module.register_forward_pre_hook(tracer.entering(name, holds(module)))
        module.register_forward_hook(tracer.leaving(name, holds(module)), with_kwargs=True)
    result = rehearsal.run(tracer)
    ledger.hold(outputs(result), "the network puts them out")
    ledger.read(result)
    found = ledger.trace()
    modules = dict(model.named_modules())
    counted = [modules[name] for name in found.runs]
    inside = {id(p) for module in counted for p in module.parameters()}
    unfollowed = sum(
        2 * count * modules[name].weight.numel()
        for name, count in places.positions.items()
        if name not in found.runs
    )
    return assemble(
        found,
        modules,
        places.positions,
        layer_of,
        other_parameters=sum(p.numel() for p in model.parameters() if id(p) not in inside),
        other_flops=places.other_flops + unfollowed,
    )


def idle_modules(model: nn.Module, example: ModelInputs) -> set[str]:
    """Return the convolutions and linear layers that run in training, but not when it predicts.

    Auxiliary heads, for instance. A network that cannot be trained on the example has none.
    """
    ran = []
    for training in (False, True):
        rehearsal = Rehearsal(model, example, training=training)
        places = Places(rehearsal.model)
        try:
            rehearsal.run(places)
        except Exception:
            if training:
                return set()
            raise
        ran.append(places.positions.keys())
    return ran[1] - ran[0]


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the channels through the operations of a network."""

    def __init__(self, model: nn.Module, ledger: Ledger) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ledger = ledger
        self._owners = WeightOwners(model)
        self._biases = {
            id(module.bias)
            for module in model.modules()
            if is_convolution(module) or is_batch_norm(module)
        }
        self._fresh_ones: dict[int, Tensor] = {}
        self._whole = 0  # how many modules are at work whose operations are not looked at

    def entering(self, name: str, holds: bool) -> Callable[[nn.Module, Any], None]:
        """Return the hook that notes that a module runs, which may hold its channels."""

        def hook(module: nn.Module, inputs: Any) -> None:
            self._ledger.where.append(name)
            self._whole += is_channelwise(module)
            if holds:
                self._ledger.holding.append(f"{type(module).__name__} fixes their number")
                self._ledger.hold(inputs, self._ledger.holding[-1])

        return hook

    def leaving(self, name: str, holds: bool) -> Callable[[nn.Module, Any, Any, Any], None]:
        """Return the hook that notes that a module is done."""

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if is_channelwise(module):
                self._whole -= 1
                x = first_input(args, kwargs)
                others = any(tensor is not x for tensor in tensors_in((args, kwargs)))
                reader = name if is_normalization(module) else ""
                with unset_fake_temporarily():
                    if others or not isinstance(output, Tensor):  # a subclass that does more
                        self._ledger.unknown((args, kwargs, output), type(module).__name__)
                    else:
                        self._channelwise(x, output, name, reader)
            self._ledger.where.pop()
            if holds:
                self._ledger.hold(output, self._ledger.holding.pop())

        return hook

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if self._whole:
            return result
        kind = operations.kind_of(func)
        handler = getattr(self, f"_{kind}", None)
        answers = not any(True for _ in tensors_in(result))  # about a device or a number
        if kind != "normalization" and not answers:
            self._ledger.read((args, kwargs))
        if self._owners.follow(func, args, result):
            return result
        if handler is not None:
            with unset_fake_temporarily():
                handler(func, args, kwargs, result)
        elif not answers:
            self._ledger.unknown((args, kwargs), name)
        return result

    def _fresh(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        # Made in the size of another, as noise is: it fits whatever becomes of that.
        self._fresh_ones[id(result)] = result

    def _convolution(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        x, weight, groups = args[0], args[1], args[8]
        inputs = self._ledger.along(x, 1, "a convolution")
        if inputs is None:
            return
        depthwise = groups == x.shape[1] == result.shape[1] > 1
        outputs = inputs if depthwise else self._ledger.new(result.shape[1])
        self._ledger.note_along(result, outputs, 1)
        if groups > 1 and not depthwise:
            self._ledger.hold((x, result), f"a convolution has {groups} groups")
        owner = self._owners.of(weight)
        self._ledger.record(owner, inputs, outputs, (x, result), "a convolution", result)

    def _linear(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        x, owner = args[-2], self._owners.of(args[-1])
        if not self._ledger.knows(x) and owner is None:
            return
        if owner is None:
            self._ledger.unknown(args, "a product of matrices")
            return
        inputs = self._ledger.along(x, x.ndim - 1, "a linear layer")
        if inputs is not None:
            outputs = self._ledger.new(result.shape[-1])
            self._ledger.note_along(result, outputs, -1)
            self._ledger.record(owner, inputs, outputs, (x, result), "a linear layer", result)

    def _normalization(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        owner = self._owners.of(args[1] if args[1] is not None else args[3])
        self._channelwise(args[0], result[0], owner, owner or "")

    def _channelwise(self, x: Tensor, result: Tensor, owner: str | None, reader: str) -> None:
        channels = self._ledger.along(x, 1, "a normalization")
        if channels is not None:
            self._ledger.note(result, self._ledger.numbers(x))
            self._ledger.read(x, reader)
            if owner and self._ledger.width(owner) not in (None, len(channels)):
                return  # it has nothing for its channels, and may get any number of them
            self._ledger.record(owner, channels, channels, x, "a normalization")

    def _products(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        """Products of matrices, one a head: a head goes whole or not at all."""
        first, second = args[:2]
        if self._owners.of(second) is not None:  # a linear layer, on what does not lie in order
            self._linear(func, args, kwargs, result)
            return
        if not self._ledger.knows(first) and not self._ledger.knows(second):
            return
        if not (self._ledger.knows(first) and self._ledger.knows(second)):
            self._ledger.unknown(args, "products of matrices")
            return
        heads = [full(self._ledger.numbers(x), x, {0})[:, :1, :1] for x in (first, second)]
        for numbers, tensor in zip(heads, (first, second), strict=True):
            self._ledger.unite(numbers, self._ledger.numbers(tensor))
        self._ledger.unite(*heads)
        self._ledger.note(result, compressed(heads[0]))

    def _pointwise(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Channel by channel: the operands' channels become one."""
        operands = list(tensors_in((args, kwargs)))
        known = [x for x in operands if self._ledger.knows(x)]
        if operands and all(id(x) in self._fresh_ones for x in operands):
            self._fresh(func, args, kwargs, result)
            return
        if not known or not isinstance(result, Tensor):
            self._ledger.unknown((args, kwargs), func.overloadpacket.__name__)
            return
        dims = {d - x.ndim for x in known for d in varying(self._ledger.numbers(x))}
        # Operands of one number (a scalar, or one for each image) do not tie channels; those of
        # many are parameters of the channels that nobody would shorten.
        others = [
            x
            for x in operands
            if not self._ledger.knows(x)
            and id(x) not in self._biases
            and id(x) not in self._fresh_ones
        ]
        if any(_extends(x, dims) for x in others):
            self._ledger.unknown((args, kwargs), func.overloadpacket.__name__)
            return
        # One channel for all of others, as of a gate, would make these one.
        self._ledger.hold(
            [x for x in known if dims and not _extends(x, dims)], "it acts on many channels"
        )
        tied = [x for x in known if not dims or _extends(x, dims)]
        numbered = [self._ledger.numbers(x) for x in tied]
        together = numbered[0]
        for numbers in numbered[1:]:
            self._ledger.unite(together, numbers)
            together, _ = broadcast(together, numbers)
        lead = (1,) * (result.ndim - together.ndim)
        self._ledger.note(result, compressed(together.reshape(*lead, *together.shape)))

    def _maps(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """What changes the size of maps and treats every channel by itself."""
        if not self._ledger.knows(args[0]):
            return
        numbers = self._ledger.numbers(args[0])
        if varying(numbers) & operations.changed_axes(func, args):
            self._ledger.unknown(args, func.overloadpacket.__name__)
        else:
            self._ledger.note(result if isinstance(result, Tensor) else result[0], numbers)

    def _halves(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        """A gated linear unit: one half of the channels gates the other."""
        if not self._ledger.knows(args[0]):
            return
        x, dim = args[0], (args[1] if len(args) > 1 else -1) % args[0].ndim
        numbers = self._ledger.numbers(x)
        if dim in varying(numbers):
            halves = full(numbers, x, {dim}).chunk(2, dim)
            self._ledger.unite(*halves)
            numbers = halves[0]
        self._ledger.note(result, numbers)

    def _same(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        if self._ledger.knows(args[0]):
            result = result if isinstance(result, Tensor) else result[0]
            if result.shape == args[0].shape:
                self._ledger.note(result, self._ledger.numbers(args[0]))
            else:
                self._ledger.unknown(args, func.overloadpacket.__name__)
        elif id(args[0]) in self._fresh_ones:
            self._fresh(func, args, kwargs, result)

    def _reshape(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        """Views and permutations: the numbers take the same way."""
        if not self._ledger.knows(args[0]):
            return
        numbers = self._ledger.numbers(args[0])
        moved = full(numbers, args[0])
        if "view" in func.overloadpacket.__name__:
            moved = moved.reshape(result.shape)
        else:
            moved = func(moved, *args[1:], **kwargs)
        moved = compressed(moved)
        if len(varying(moved)) > len(varying(numbers)):
            where = self._ledger.where[-1] if self._ledger.where else ""
            self._ledger.views.append((where, np.array(moved.squeeze())))
        self._ledger.note(result, moved)

    def _reduction(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Means and the like over places, not over channels."""
        if not self._ledger.knows(args[0]):
            return
        x, numbers = args[0], self._ledger.numbers(args[0])
        dims = operations.reduced_dims(func, args, kwargs)
        if dims is None or varying(numbers) & dims:
            self._ledger.unknown(args, func.overloadpacket.__name__)
            return
        result = result if isinstance(result, Tensor) else result[0]  # the other says where
        if result.ndim < x.ndim:
            left = [size for dim, size in enumerate(numbers.shape) if dim not in dims]
            numbers = numbers.reshape(left)
        self._ledger.note(result, numbers)

    def _softmax(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        if self._ledger.knows(args[0]) and args[1] % args[0].ndim in varying(
            self._ledger.numbers(args[0])
        ):
            self._ledger.unknown(args, "a softmax")
        else:
            self._same(func, args, kwargs, result)

    def _cut(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Parts of a tensor: equal parts of its channels stay equal, others stay as they are."""
        if not self._ledger.knows(args[0]):
            return
        x, numbers = args[0], self._ledger.numbers(args[0])
        name = func.overloadpacket.__name__
        dim = operations.cut_dim(func, args) % x.ndim
        if dim in varying(numbers):
            whole = isinstance(result, Tensor) and result.shape == x.shape
            if name == "slice" and not whole:
                self._ledger.unknown(args, name)
                return
            cut = torch.unbind if name in ("select", "unbind") else None
            if cut is not None:
                pieces = list(cut(full(numbers, x, {dim}), dim))
                self._ledger.splits.append([np.array(piece.flatten()) for piece in pieces])
            elif name != "slice":
                sizes = [part.shape[dim] for part in result]
                pieces = list(torch.split(full(numbers, x, {dim}), sizes, dim))
                self._ledger.splits.append([np.array(piece.flatten()) for piece in pieces])
        moved = func(full(numbers, x), *args[1:], **kwargs)
        for part, of_part in zip(_listed(result), _listed(moved), strict=True):
            self._ledger.note(part, compressed(of_part))

    def _stack(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        dim = (args[1] if len(args) > 1 else 0) % result.ndim
        known = [self._ledger.numbers(part) for part in args[0] if self._ledger.knows(part)]
        dims = set().union(*(varying(numbers) for numbers in known))
        if any(
            part.shape[d] != 1 for part in args[0] if not self._ledger.knows(part) for d in dims
        ):
            self._ledger.unknown(args, "stack")
        elif known:
            self._ledger.unite(*known)
            self._ledger.note(result, known[0].unsqueeze(dim))

    def _cat(self, func: Any, args: Any, kwargs: Any, result: Tensor) -> None:
        # PyTorch joins vectors without elements to tensors of any shape: caches begin as such.
        parts = [part for part in args[0] if part.ndim != 1 or len(part)]
        dim = (args[1] if len(args) > 1 else 0) % result.ndim
        known = [self._ledger.numbers(part) for part in parts if self._ledger.knows(part)]
        if not known:
            return
        dims = set().union(*(varying(numbers) for numbers in known))
        others = [part for part in parts if not self._ledger.knows(part)]
        if any(part.shape[d] != 1 for part in others for d in dims - {dim}):
            self._ledger.unknown(args, "cat")
        elif dim in dims:
            pieces = [full(self._ledger.given(part, dim), part, dims | {dim}) for part in parts]
            self._ledger.note(result, torch.cat(pieces, dim))
        else:
            self._ledger.unite(*known)
            self._ledger.note(result, known[0])


def _extends(tensor: Tensor, dims: Collection[int]) -> bool:
    """Return whether a tensor is larger than 1 along any of ``dims``, counted from the last."""
    return any(tensor.ndim >= -d and tensor.shape[d] != 1 for d in dims)


def _listed(value: Any) -> Sequence[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)
