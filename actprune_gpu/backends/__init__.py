"""The compute kernels, one implementation for each kind of device.

The tensors decide: `backend_of` hands out the implementation for the device on which they lie, and
the stages above know no device.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from ..errors import BackendUnavailableError
from .protocol import Backend


def backend_of(tensor: Tensor) -> Backend:
    """Return the kernels for the device of ``tensor``.

    Raises:
        BackendUnavailableError: If there are none for that kind of device, or something that they
            need is missing.
    """
    return _backend(tensor.device)


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
