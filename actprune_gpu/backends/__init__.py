"""The compute kernels, one implementation for each kind of device.

The tensors decide: `backend_of` hands out the implementation for the device on which they lie, and
the stages above know no device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor

from ..errors import BackendUnavailableError
from .protocol import Backend, Item, Result


def backend_of(tensor: Tensor) -> Backend:
    """Return the kernels for the device of ``tensor``.

    Raises:
        BackendUnavailableError: If there are none for that kind of device, or something that they
            need is missing.
    """
    return _backend(tensor.device)


def map_devices(
    function: Callable[[Item], Result], items: Mapping[torch.device, Item]
) -> Iterator[Result]:
    """Apply ``function`` to one item for each device, at once, in order of the items.

    Each has a thread of its own, which goes on with the stream that is current here.
    """
    if len(items) == 1:  # in this thread, whose number of threads the user may have set
        yield from map(function, items.values())
        return
    streams = {
        device: torch.cuda.current_stream(device) if device.type == "cuda" else None
        for device in items
    }

    def apply(device: torch.device) -> Result:
        with torch.cuda.stream(streams[device]):
            return function(items[device])

    with ThreadPoolExecutor(len(items)) as pool:
        yield from pool.map(apply, items)


@cache
def _backend(device: torch.device) -> Backend:
    if device.type == "cpu":
        from .cpu import CpuBackend

        return CpuBackend()
    if device.type == "cuda":
        from ..devices import resolve_device

        resolve_device(device)
        from .cuda import CudaBackend
        from .cuda.cupy_launcher import CupyLauncher

        return CudaBackend(CupyLauncher(device.index))
    raise BackendUnavailableError(
        f"no kernels for tensors on device {device.type!r}, only for 'cpu' and 'cuda': "
        "move them with .cpu()"
    )
