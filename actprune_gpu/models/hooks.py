"""Reading the outputs of layers inside any `nn.Module` while it runs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from ..errors import InputError


@contextmanager
def capture_outputs(
    model: nn.Module,
    layers: Sequence[str],
    *,
    keep: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Collect what some layers put out, in every forward pass of the block.

    Args:
        model: The network.
        layers: Names of modules in it, as ``model.named_modules()`` gives them.
        keep: What to keep of an output, for instance a few cells of it. The dictionary then holds
            that and not the output, whose memory is free again as soon as the network is done with
            it.

    Yields:
        A dictionary from layer to its latest output, filled while the model runs. The hooks are
        gone after the block, however it ends.

    Raises:
        InputError: If a layer is not in the model or, during a forward pass, if its output is not a
            tensor.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in layers:
        if name not in modules:
            raise _unknown(name, list(modules))
    outputs: dict[str, Tensor] = {}

    def store(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                raise InputError(
                    f"layer {name!r} must put out a tensor, got {type(output).__name__}"
                )
            outputs[name] = output if keep is None else keep(output)

        return hook

    handles = []
    try:
        for name in layers:
            handles.append(modules[name].register_forward_hook(store(name)))
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


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
    hint = f"nearest are {', '.join(nearest)}" if nearest else f"there are no {what}s"
    return InputError(f"no {what} matches {pattern!r}: {hint}")
