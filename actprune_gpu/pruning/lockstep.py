"""Two networks of one architecture that run side by side, module by module."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..inputs import ModelInputs, first_input

# Name of a module, its input and output in the first network, and its input in the second.
Step = Callable[[str, Tensor, Tensor, Tensor], None]
_POLL_SECONDS = 0.1


def lockstep(
    first: nn.Module, second: nn.Module, names: Sequence[str], inputs: ModelInputs, step: Step
) -> tuple[Any, Any]:
    """Run both networks on the same inputs and call ``step`` before modules of the second run.

    ``step`` may change the module that is about to run: that is what this is for. The first network
    is one module ahead, in a thread of its own, so that only the feature maps of one module are
    held beside those that the networks themselves hold.

    Args:
        first: The network that is watched, in evaluation mode.
        second: The network that is changed, in evaluation mode, with the modules of the first.
        names: Modules to stop at, each of which runs once, in the same order in both.
        inputs: Of both, on their device.
        step: Called with the module's name, input and output in the first network, and input in the
            second.

    Returns:
        What the first network puts out, and the second.
    """
    ahead: queue.Queue[tuple[str, Tensor, Tensor] | BaseException] = queue.Queue(1)
    stopped = threading.Event()
    of_first: list[Any] = []

    def put(item: tuple[str, Tensor, Tensor] | BaseException) -> None:
        while not stopped.is_set():
            try:
                ahead.put(item, timeout=_POLL_SECONDS)
                return
            except queue.Full:
                continue
        raise _Stopped

    def watch(name: str) -> Callable[[nn.Module, Any, Any, Any], None]:
        return lambda module, args, kwargs, output: put((name, first_input(args, kwargs), output))

    def take(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            item = ahead.get()
            if isinstance(item, BaseException):
                raise item
            assert item[0] == name, f"{item[0]} ran where {name} was expected"
            step(*item, first_input(args, kwargs))

        return hook

    def run_first() -> None:
        try:
            with torch.no_grad():
                of_first.append(inputs.run(first))
        except _Stopped:
            pass
        except BaseException as error:
            with suppress(_Stopped):
                put(error)

    modules, others = dict(first.named_modules()), dict(second.named_modules())
    handles = []
    thread = threading.Thread(target=run_first, daemon=True)
    try:
        for name in names:
            handles.append(modules[name].register_forward_hook(watch(name), with_kwargs=True))
            handles.append(others[name].register_forward_pre_hook(take(name), with_kwargs=True))
        thread.start()
        with torch.no_grad():
            of_second = inputs.run(second)
        thread.join()
        if not of_first:  # it failed behind the last of the modules
            raise cast(BaseException, ahead.get())
        return of_first[0], of_second
    finally:
        stopped.set()
        if thread.is_alive():
            thread.join()
        for handle in handles:
            handle.remove()


class _Stopped(Exception):
    """The second network is done or has failed."""
