"""The compute kernels, one implementation for each kind of device.

The tensors decide: `backend_of` hands out the implementation for the device on which they lie, and
the stages above know no device.
"""

from __future__ import annotations

from functools import cache

from torch import Tensor

from ..errors import BackendUnavailableError
from .protocol import Backend


def backend_of(tensor: Tensor) -> Backend:
    """Return the kernels for the device of ``tensor``.

    Raises:
        BackendUnavailableError: If there are none for that kind of device.
    """
    return _backend(tensor.device.type)


@cache
def _backend(device_type: str) -> Backend:
    if device_type == "cpu":
        from .cpu import CpuBackend

        return CpuBackend()
    raise BackendUnavailableError(
        f"no kernels for tensors on device {device_type!r}, only for 'cpu': move them with .cpu()"
    )
