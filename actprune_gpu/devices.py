"""Which device a name means, and what is missing where it cannot be used."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import torch

from .errors import BackendUnavailableError, InputError

_log = logging.getLogger(__name__)
_LOWEST_CAPABILITY = (8, 0)


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device that a name means.

    Args:
        device: ``"cpu"``, ``"cuda"`` (the current GPU), ``"cuda:1"``, or ``"auto"``: a GPU if one
            can be used, else the CPU, which is logged.

    Raises:
        InputError: If there is no such name.
        BackendUnavailableError: If a GPU is asked for that cannot be used; the message names the
            missing piece.
    """
    name = str(device)
    if name == "auto":
        fault = cuda_fault(None)
        if fault is None:
            return torch.device("cuda", torch.cuda.current_device())
        _log.info("device 'auto' is the CPU: %s", fault)
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if name == "cpu":
        return torch.device("cpu")
    if kind != "cuda" or (number != "" and not number.isdecimal()) or name.endswith(":"):
        raise InputError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:1', got {name!r}")
    index = int(number) if number else None
    fault = cuda_fault(index)
    if fault is not None:
        raise BackendUnavailableError(f"device {name!r} cannot be used: {fault}")
    return torch.device("cuda", torch.cuda.current_device() if index is None else index)


def resolve_devices(device: str | torch.device) -> list[torch.device]:
    """Return the devices that work may be spread over: that of a name, for ``"auto"`` all GPUs.

    Raises:
        As `resolve_device`, whose device comes first.
    """
    first = resolve_device(device)
    if str(device) != "auto" or first.type != "cuda":
        return [first]
    others = [n for n in range(torch.cuda.device_count()) if n != first.index]
    return [first, *(torch.device("cuda", n) for n in others if cuda_fault(n) is None)]


def cuda_fault(index: int | None) -> str | None:
    """Return why a GPU, the current one if ``None``, cannot be used; ``None`` if it can."""
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA: install a build with it from pytorch.org"
    if not torch.cuda.is_available():
        return f"PyTorch finds no NVIDIA GPU or driver ({_missing()}): see what nvidia-smi says"
    n_devices = torch.cuda.device_count()
    if index is not None and index >= n_devices:
        return f"there are {n_devices} GPUs, numbered from 0"
    capability = torch.cuda.get_device_capability(index)
    if capability < _LOWEST_CAPABILITY:
        return "its compute capability is {}.{}, 8.0 is needed".format(*capability)
    extra = f"cuda{torch.version.cuda.partition('.')[0]}"
    if find_spec("cupy") is None:
        return f"CuPy is not installed: pip install 'actprune_gpu[{extra}]'"
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        cause = " ".join(str(error).split())[:200]
        return f"CuPy does not work here ({cause}): pip install --force-reinstall cupy-{extra}x"
    return _kernel_fault()


def _kernel_fault() -> str | None:
    """Return why the kernels cannot be loaded: without binaries of them they must be compiled."""
    from .backends.cuda import binaries, nvrtc, sources

    try:
        nvrtc.version()
    except BackendUnavailableError as error:
        if not all(binaries.find(file) for file in sources.files()):
            return str(error)
    return None


def _missing() -> str:
    """Return which of them it is, in PyTorch's words: no driver, an old one, or no GPU."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    return "it cannot say which"
