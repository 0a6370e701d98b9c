"""The CUDA kernels' tests run on a GPU if ACTPRUNE_GPU is set, else on the emulator."""

import os

import committed
import torch
from emulator.launcher import EmulatedLauncher

from actprune_gpu.backends.cuda import CudaBackend

ON_GPU = os.environ.get("ACTPRUNE_GPU", "0") != "0"
DEVICE = torch.device("cuda", 0) if ON_GPU else torch.device("cpu")
# Schedules of the emulator; a GPU has its own.
SEEDS = (0,) if ON_GPU else (0, 1, 2, 3)


def backend(**options):
    """The CUDA backend; options are those of the emulator."""
    if ON_GPU:
        from actprune_gpu.backends.cuda.cupy_launcher import CupyLauncher

        return CudaBackend(CupyLauncher(0))
    return CudaBackend(EmulatedLauncher(**options))


def cpu():
    """The CPU's backend, None on a machine without Numba."""
    try:
        from actprune_gpu.backends.cpu import CpuBackend
    except ImportError:
        return None
    return CpuBackend()


CPU = cpu()


def move(value, device=DEVICE):
    """A value with all tensors in it on a device, with the strides and offsets that they have."""
    if isinstance(value, torch.Tensor):
        everything = value.new_empty(0).set_(value.untyped_storage()).to(device)
        return everything.as_strided(value.shape, value.stride(), value.storage_offset())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(move(part, device) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(move(part, device) for part in value)
    return value


def made(kernel, *arguments):
    """Arguments for a kernel, made by another one where there is one: on the CPU's memory."""
    source = CPU or backend()
    on = torch.device("cpu") if CPU else DEVICE
    return move(getattr(source, kernel)(*move(arguments, on)), torch.device("cpu"))


def assert_equal(kernel, *arguments, cuda=None):
    """A kernel gives the bits of the CPU's, which are those that are committed."""
    ours = move(getattr(cuda or backend(), kernel)(*move(arguments)), torch.device("cpu"))
    assert_result(kernel, arguments, ours, lambda: getattr(CPU, kernel)(*arguments))


def assert_result(kernel, arguments, ours, compute):
    """The result of a kernel is that of the CPU, which is the one that is committed."""
    if CPU:
        theirs = compute()
        assert equal(ours, theirs), kernel
        if committed.WRITING:
            committed.note(kernel, arguments, theirs)
    committed.hold(kernel, arguments, ours)


def equal(ours, theirs):
    """Equal types and bits, in whatever tuples and lists."""
    if isinstance(ours, torch.Tensor):
        return ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(ours, tuple | list):
        return len(ours) == len(theirs) and all(map(equal, ours, theirs))
    return ours == theirs
