"""The network itself, set up for observation, and given back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import InputError


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of `torch.compile` and of data parallelism.

    Raises:
        InputError: If it is no network.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(model, parallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Switch off, within the block, what the caller has switched on around it.

    In inference mode operations cannot be followed, and autocast is one thread's alone.
    """
    with torch.inference_mode(False), torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def observed(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a network in evaluation mode, without gradients, whose hooks run.

    What is compiled runs uncompiled, since hooks added later may not. After the block every module
    is in the mode in which it was, however the block ends.
    """
    network = unwrapped(model)
    modules: list[Any] = list(network.modules())
    modes = [module.training for module in modules]
    compiled = [module._compiled_call_impl for module in modules]
    try:
        for module in modules:
            module._compiled_call_impl = None
        network.eval()
        # Not inference mode: what a network stores at its first call must serve training later.
        with torch.no_grad():
            yield network
    finally:
        for module, mode, call in zip(modules, modes, compiled, strict=True):
            module.training = mode
            module._compiled_call_impl = call
