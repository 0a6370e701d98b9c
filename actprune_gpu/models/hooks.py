"""Reading the outputs, or inputs, of layers inside any `nn.Module` while it runs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from ..errors import InputError
from ..inputs import first_input

_INPUT = ":input"


@contextmanager
def capture_outputs(
    model: nn.Module,
    layers: Sequence[str],
    *,
    keep: Callable[[str, Tensor], Tensor] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Collect what some layers put out, in every forward pass of the block.

    Args:
        model: The network.
        layers: Names of modules in it, as ``model.named_modules()`` gives them; with ``:input``
            behind it, what goes into the module is collected instead.
        keep: What to keep of a layer's output, for instance a few cells of it. The dictionary then
            holds that and not the output, whose memory is free again as soon as the network is done
            with it.

    Yields:
        A dictionary from layer to its latest output, filled while the model runs. The hooks are
        gone after the block, however it ends.

    Raises:
        InputError: If a layer is not in the model or, during a forward pass, if its output is not a
            tensor.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in layers:
        if module_name(name) not in modules:
            raise _unknown(module_name(name), list(modules))
    outputs: dict[str, Tensor] = {}

    def store(name: str, output: Any, verb: str) -> None:
        if not isinstance(output, Tensor):
            raise InputError(f"layer {name!r} must {verb} a tensor, got {type(output).__name__}")
        outputs[name] = output if keep is None else keep(name, output)

    def after(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, inputs, output: store(name, output, "put out")

    def before(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, kwargs: store(name, first_input(args, kwargs), "get")

    handles = []
    try:
        for name in layers:
            module = modules[module_name(name)]
            if name.endswith(_INPUT):
                handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(after(name)))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def module_name(layer: str) -> str:
    """Return the name of the module whose output, or input, a layer stands for."""
    return layer.removesuffix(_INPUT)


def resolve_layers(
    names: Sequence[str], patterns: Sequence[str], *, what: str = "layer"
) -> list[str]:
    """Return the names that one of the patterns matches, in the order of ``names``.

    Args:
        names: The names there are.
        patterns: Exact names, or patterns with ``*``, ``?`` and ``[...]`` as in a shell, where
            ``*`` also matches dots. None at all stands for every name.
        what: What messages call a name.

    Raises:
        InputError: If a pattern matches nothing; the message lists the nearest names.
    """
    if not patterns:
        return list(names)
    chosen: set[str] = set()
    for pattern in patterns:
        matched = [name for name in names if name == pattern or fnmatchcase(name, pattern)]
        if not matched:
            raise _unknown(pattern, names, what)
        chosen.update(matched)
    return [name for name in names if name in chosen]


def _unknown(pattern: str, names: Sequence[str], what: str = "layer") -> InputError:
    nearest = difflib.get_close_matches(pattern, [name for name in names if name], n=3, cutoff=0.0)
    inside = f"{pattern}.*"
    if any(fnmatchcase(name, inside) for name in names):
        return InputError(f"no {what} matches {pattern!r}: {inside!r} stands for those in it")
    hint = f"nearest are {', '.join(nearest)}" if nearest else f"there are no {what}s"
    return InputError(f"no {what} matches {pattern!r}: {hint}")
